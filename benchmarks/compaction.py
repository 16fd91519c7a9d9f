"""What compaction buys, and whether it removes what Torch-Pruning removes at the same channels.

    python benchmarks/compaction.py             latency of dense, masked and compact networks, measured in turn
    python benchmarks/compaction.py --peer      the same channels of a ResNet-56 through Torch-Pruning and through regx

The first half is a ResNet-18 for images of 32 x 32, of which half the channels are zero: all of them, or those within
the blocks alone, as where only these are penalised. Outputs are compared before anything is timed.
"""

import argparse
import copy

import torch
from torch import Tensor, nn

from regx.analysis import cost as costs
from regx.compaction import pruning
from regx.compaction.removal import compact, difference
from regx.models import create
from regx.regularizers import cost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", action="store_true", help="compare with Torch-Pruning (pip install torch-pruning)")
    parser.add_argument("--repeats", type=int, default=20, help="timed passes of each network (default 20)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    if arguments.peer:
        beside_torch_pruning()
    else:
        latency(arguments.repeats, arguments.threads)


def latency(repeats: int, threads: int) -> None:
    dense = trained_like(create("resnet", input_shape=(3, 32, 32), output_size=10, depth=18))
    networks = {"dense": dense}
    for name, only_inner in (("half of all channels", False), ("half of those within blocks", True)):
        masked = half_zero(copy.deepcopy(dense), only_inner)
        small = compact(masked, torch.randn(1, 3, 32, 32)).model
        x = torch.randn(8, 3, 32, 32)
        with torch.inference_mode():
            off = difference(masked(x), small(x))
        assert off <= 1e-5, off
        networks |= {f"masked: {name}": masked, f"compact: {name}": small}
    print(f"ResNet-18, 32 x 32, {threads} thread(s), {repeats} passes of each in turn; median [quartiles] in ms")
    print(f"{'':40}{'GMAC':>7}{'params':>12}  {'batch 1':>24}{'speed-up':>10}  {'batch 32':>24}{'speed-up':>10}")
    found = {}
    for size in (1, 32):
        x = torch.randn(size, 3, 32, 32).contiguous(memory_format=torch.channels_last)
        models = {name: m.to(memory_format=torch.channels_last) for name, m in networks.items()}  # type: ignore[call-overload]
        found[size] = costs.measure(models, x, repeats=repeats, threads=threads)
    for name in networks:
        line = f"{name:40}{found[1][name].size.macs / 1e9:7.3f}{found[1][name].size.parameters:12,}"
        for size in (1, 32):
            of = found[size][name]
            low, high = of.quartiles
            ratio = of.speed_up(found[size][name.replace("compact", "masked")] if name != "dense" else of)[0]
            line += f"  {f'{1e3 * of.median:.1f} [{1e3 * low:.1f}, {1e3 * high:.1f}]':>24}{ratio:>9.2f}x"
        print(line)


def trained_like(model: nn.Module) -> nn.Module:
    """Gives normalisation layers statistics other than those of a new network."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
    return model.eval()


def half_zero(model: nn.Module, only_inner: bool) -> nn.Module:
    """Zeroes every second channel: the filter, and what a normalisation makes of it."""
    with torch.no_grad():
        for name, module in model.named_modules():
            if only_inner and not name.endswith((".conv1", ".bn1")):
                continue
            if isinstance(module, nn.Conv2d):
                module.weight[1::2] = 0
            elif isinstance(module, nn.BatchNorm2d):
                module.weight[1::2] = 0
                module.bias[1::2] = 0
    return model


def beside_torch_pruning() -> None:
    import torch_pruning

    model = trained_like(create("resnet", input_shape=(3, 32, 32), output_size=10, depth=56))
    x = torch.randn(4, 3, 32, 32)
    masked, theirs = copy.deepcopy(model), copy.deepcopy(model)
    remove_with(torch_pruning, theirs, masked, x)
    ours = compact(masked, x).model
    with torch.inference_mode():
        outputs = {"masked": masked(x), "Torch-Pruning": theirs(x), "regx": ours(x)}
    print("ResNet-56, 32 x 32, the channels that Torch-Pruning's group magnitude removes at a ratio of one half")
    for name, network in (("dense", model), ("Torch-Pruning", theirs), ("regx", ours)):
        macs = sum(layer.macs for layer in cost.count(network, x[:1]).values())
        parameters = sum(p.numel() for p in network.parameters())
        off = f", differs from masked by {difference(outputs['masked'], outputs[name]):.1e}" if name in outputs else ""
        print(f"  {name:14} {parameters:9,} parameters {macs:12,} multiply-adds{off}")
    print(f"  regx beside Torch-Pruning: {difference(outputs['Torch-Pruning'], outputs['regx']):.1e}")
    model = trained_like(create("lenet5", input_shape=(3, 32, 32), output_size=10))
    masked, theirs, chosen = copy.deepcopy(model), copy.deepcopy(model), copy.deepcopy(model)
    remove_with(torch_pruning, theirs, masked, x, 0.4, everywhere=True)
    left = {of: sum(layer.macs for layer in cost.count(of, x[:1]).values()) for of in (model, theirs)}
    pruning.to_macs(chosen, left[theirs] / left[model], x[:1])
    pairs = list(zip(cost.layers(masked).values(), cost.layers(chosen).values(), strict=True))
    same = sum(int((a.weight.flatten(1).any(1) == b.weight.flatten(1).any(1)).sum()) for a, b in pairs)
    print(f"LeNet-5: of {sum(len(a.weight) for a, _ in pairs)} channels {same} have the same fate by --target-macs")


def remove_with(
    library: object, model: nn.Module, masked: nn.Module, x: Tensor, share: float = 0.5, everywhere: bool = False
) -> None:
    """Lets Torch-Pruning remove channels from `model`, of every layer or wherever, and zeroes them in `masked`."""
    importance = library.importance.GroupMagnitudeImportance(p=2)  # type: ignore[attr-defined]
    last = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
    pruner = library.pruner.MagnitudePruner(  # type: ignore[attr-defined]
        model,
        x[:1],
        importance=importance,
        pruning_ratio=share,
        global_pruning=everywhere,
        max_pruning_ratio=0.9,
        ignored_layers=[last],
    )
    names = {module: name for name, module in model.named_modules()}
    for group in pruner.step(interactive=True):
        for dependency, indices in group:
            module = dependency.target.module
            kinds = nn.Conv2d | nn.BatchNorm2d | nn.Linear
            if dependency.handler.__name__ == "prune_out_channels" and isinstance(module, kinds):
                same = masked.get_submodule(names[module])
                with torch.no_grad():
                    for tensor in (same.weight, same.bias):
                        if tensor is not None:
                            tensor[indices] = 0  # type: ignore[index]
        group.prune()


if __name__ == "__main__":
    main()
