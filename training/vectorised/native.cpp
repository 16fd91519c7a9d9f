// Trains and evaluates many small dense networks of equal shape, run by run: forward pass, Jumpstart, backward pass and
// optimiser of a whole epoch in one call, without a library. Compiled with -DWIDTH=units of a layer and
// -DACTIVATION=name; native.py builds it, checks the tensors and calls it.
//
// A matrix (units, rows of the batch) is stored by units, LANES rows to a vector, each unit `apart` vectors after the
// one before. Rows beyond the end of a batch repeat its first row: they change no extreme, and `real` is 0 there.
// A run is computed by one thread, with the same operations whatever runs beside it.

#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <thread>
#include <type_traits>
#include <vector>

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif
typedef float Floats __attribute__((vector_size(4 * LANES), may_alias));
typedef int32_t Ints __attribute__((vector_size(4 * LANES), may_alias));
constexpr int64_t W = WIDTH;
constexpr int PAIR = 2;  // vectors of rows that `multiply` takes at once; batches are padded to it

enum Task : int64_t { BINARY, MULTICLASS, REGRESSION };
enum Optimizer : int64_t { SGD, ADAM, ADAMW };
enum Status { POSITIVE_UNIT, NEGATIVE_UNIT, POSITIVE_POINT, NEGATIVE_POINT, POINTS_DEAD, POINTS_LINEAR,
              POINTS_NONLINEAR, CELLS_DEAD, CELLS_LINEAR, CELLS_EFFICIENT, STATUSES };

// Weights of all runs, or what the optimiser keeps of them.
struct Tensors {
    float *w0, *wh, *bias, *whead, *bhead;  // (R, W, F), (L - 1, R, W, W), (L, R, W), (R, K, W), (R, K)
};

// What Python hands over; native.py has the same fields. Arrays of runs have R values.
struct Call {
    int64_t runs, rows, features, layers, outputs, batch, steps, used;  // `used` rows of `order` per run
    int64_t shared_x, shared_y, task, optimizer, nesterov, train, record, threads, scratch_per_thread;
    const float *x;                               // (R or 1, rows, F)
    const void *y;                                // (R or 1, rows) int64, or (R or 1, rows, K) float
    const int64_t *order;                         // (R, used) rows of x; null: in order
    Tensors weights, first, second;               // the parameters; Adam's moments, or momentum in the first
    const double *lr, *decay, *decay_biases, *momentum, *strength, *clip, *grad_clip;
    int64_t *t;                                   // steps of the optimiser so far
    double unit_positive, unit_negative, point_positive, point_negative, positive_margin, negative_margin, task_share;
    double beta1, beta2, eps;
    double *losses, *counts, *status;             // (R, 2), (R, 1 or 2 K), (R, STATUSES), added to
    uint8_t *ever_positive, *ever_nonpositive;    // (R, L, W)
    float *scratch;                               // (threads, scratch_per_thread), 64-byte aligned
};

// ---------------------------------------------------------------------------------------------- vectors

static inline Floats all(float value) { return Floats{} + value; }
static inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }
static inline Floats smaller(Floats a, Floats b) { return a < b ? a : b; }

template <typename T, typename Vector, typename Join>
static inline T folded(Vector value, Join join) {  // halves, so that the compiler can use vectors
    alignas(sizeof(Vector)) T lane[LANES];
    std::memcpy(lane, &value, sizeof value);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) lane[i] = join(lane[i], lane[i + half]);
    return lane[0];
}
static inline float sum(Floats v) { return folded<float>(v, [](float a, float b) { return a + b; }); }
static inline int32_t sum(Ints v) { return folded<int32_t>(v, [](int32_t a, int32_t b) { return a + b; }); }
static inline float highest(Floats v) { return folded<float>(v, [](float a, float b) { return a > b ? a : b; }); }
static inline float lowest(Floats v) { return folded<float>(v, [](float a, float b) { return a < b ? a : b; }); }

// exp(x) = (1 + p) 2^n with p = exp(r) - 1, |r| <= ln(2) / 2: Taylor's series, 1e-8 from the truth at the ends.
static inline void split_exp(Floats x, Floats &p, Floats &power) {
    x = x > 88.0f ? all(88.0f) : x < -87.0f ? all(-87.0f) : x;  // a NaN stays
    Floats n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;   // rounded: 1.5 * 2^23 leaves no fraction
    Floats r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    p = all(1.0f / 5040);
    for (float coefficient : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f}) p = p * r + coefficient;
    p *= r;
    Ints bits = (__builtin_convertvector(n, Ints) + 127) << 23;
    std::memcpy(&power, &bits, sizeof power);
}
static inline Floats exp(Floats x) {
    Floats p, power;
    split_exp(x, p, power);
    return power + p * power;
}
static inline Floats expm1(Floats x) {
    Floats p, power;
    split_exp(x, p, power);
    return p * power + (power - 1.0f);
}
static inline Floats logistic(Floats x) { return 1.0f / (1.0f + exp(-x)); }

// ---------------------------------------------------------------------------------------------- activations

// `value` of a pre-activation; `slope` times the gradient g, of the pre-activation a and the activation h.
namespace activations {
struct relu {
    static Floats value(Floats a) { return a <= 0.0f ? all(0) : a; }
    static Floats slope(Floats a, Floats, Floats g) { return a <= 0.0f ? all(0) : g; }
};
struct leaky_relu {
    static Floats value(Floats a) { return a > 0.0f ? a : a * 0.01f; }
    static Floats slope(Floats a, Floats, Floats g) { return a > 0.0f ? g : g * 0.01f; }
};
struct elu {
    static Floats value(Floats a) { return a > 0.0f ? a : expm1(a); }
    static Floats slope(Floats a, Floats h, Floats g) { return a > 0.0f ? g : g * (h + 1.0f); }
};
struct selu {
    static constexpr float scale = 1.0507009873554805f, alpha = 1.6732632423543773f;
    static Floats value(Floats a) { return a > 0.0f ? a * scale : expm1(a) * (scale * alpha); }
    static Floats slope(Floats a, Floats h, Floats g) { return a > 0.0f ? g * scale : g * (h + scale * alpha); }
};
struct silu {
    static Floats value(Floats a) { return a * logistic(a); }
    static Floats slope(Floats a, Floats, Floats g) {
        Floats s = logistic(a);
        return g * (s * (1.0f + a * (1.0f - s)));
    }
};
struct tanh {
    static Floats value(Floats a) {
        Floats e = expm1(-2.0f * (a < 0.0f ? -a : a)), t = -e / (e + 2.0f);
        return a < 0.0f ? -t : t;
    }
    static Floats slope(Floats, Floats h, Floats g) { return g * (1.0f - h * h); }
};
struct sigmoid {
    static Floats value(Floats a) { return logistic(a); }
    static Floats slope(Floats, Floats h, Floats g) { return g * (h * (1.0f - h)); }
};
struct identity {
    static Floats value(Floats a) { return a; }
    static Floats slope(Floats, Floats, Floats g) { return g; }
};
}  // namespace activations
using Activation = activations::ACTIVATION;

// ---------------------------------------------------------------------------------------------- matrices

template <typename Piece>
static inline void in_fours(int64_t n, Piece piece) {  // piece(first, how many): 4 at a time, then the rest
    int64_t i = 0;
    for (; i + 4 <= n; i += 4) piece(i, std::integral_constant<int, 4>());
    if (n - i == 3) piece(i, std::integral_constant<int, 3>());
    if (n - i == 2) piece(i, std::integral_constant<int, 2>());
    if (n - i == 1) piece(i, std::integral_constant<int, 1>());
}

// out[u] = bias[u] + sum over k of w[u * by_unit + k * by_input] in[k]
static inline void multiply(Floats *out, int64_t units, const Floats *in, int64_t inputs, const float *w,
                            int64_t by_unit, int64_t by_input, const float *bias, int64_t vectors, int64_t apart) {
    in_fours(units, [=](int64_t first, auto size) {
        constexpr int U = decltype(size)::value;
        for (int64_t v = 0; v < vectors; v += PAIR) {
            Floats total[U][PAIR];
            for (int u = 0; u < U; u++)
                for (int j = 0; j < PAIR; j++) total[u][j] = all(bias ? bias[first + u] : 0.0f);
            for (int64_t k = 0; k < inputs; k++)
                for (int u = 0; u < U; u++)
                    for (int j = 0; j < PAIR; j++)
                        total[u][j] += in[k * apart + v + j] * w[(first + u) * by_unit + k * by_input];
            for (int u = 0; u < U; u++)
                for (int j = 0; j < PAIR; j++) out[(first + u) * apart + v + j] = total[u][j];
        }
    });
}

// The gradients of out = w in + bias, of `d`, that of `out`: sums over the rows.
static inline void differentiate(float *w, float *bias, const Floats *d, int64_t units, const Floats *in,
                                 int64_t inputs, int64_t vectors, int64_t apart) {
    in_fours(units, [=](int64_t first, auto size) {
        constexpr int U = decltype(size)::value;
        in_fours(inputs, [=](int64_t input, auto columns) {
            constexpr int C = decltype(columns)::value;
            Floats total[U][C] = {};
            for (int64_t v = 0; v < vectors; v++)
                for (int u = 0; u < U; u++)
                    for (int c = 0; c < C; c++)
                        total[u][c] += d[(first + u) * apart + v] * in[(input + c) * apart + v];
            for (int u = 0; u < U; u++)
                for (int c = 0; c < C; c++) w[(first + u) * inputs + input + c] = sum(total[u][c]);
        });
        for (int u = 0; u < U; u++) {
            Floats total = {};
            for (int64_t v = 0; v < vectors; v++) total += d[(first + u) * apart + v];
            bias[first + u] = sum(total);
        }
    });
}

// ---------------------------------------------------------------------------------------------- one run

static int64_t rounded(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// One run at work: its parameters and gradients, one after the other, and the matrices of a batch.
struct Run {
    const Call &call;
    const int64_t F, L, K, weights, parameters, padded, apart, layer;
    float *cursor;
    float *value, *first, *second, *gradient;  // in the order weights of all layers, biases of all layers
    float *unit_max, *unit_min;                // (L, W) of this batch
    Floats *x, *a, *h, *out, *g, *d, *real;    // `real` is 1 for the rows of the batch, 0 beyond its end
    Ints *last_dead, *decided, *linear;        // of every row over the layers so far
    int64_t run = 0, rows = 0, vectors = 0;
    double task_loss = 0, penalty = 0;

    // `memory` null: only `cursor` is of use, the floats that a run needs.
    Run(const Call &c, float *memory)
        : call(c), F(c.features), L(c.layers), K(c.outputs), weights(F * W + (L - 1) * W * W + K * W),
          parameters(weights + L * W + K), padded(rounded(parameters, LANES)),
          // An odd number of vectors: units a power of two apart would share the same lines of the cache.
          apart(rounded(c.batch, PAIR * LANES) / LANES + 1), layer(W * apart), cursor(memory) {
        for (float **each : {&value, &first, &second, &gradient}) *each = take(padded);
        unit_max = take(rounded(L * W, LANES)), unit_min = take(rounded(L * W, LANES));
        const int64_t kept = c.train ? L : 1;  // an evaluation goes back to no layer
        x = matrix(F), a = matrix(kept * W), h = matrix(kept * W), out = matrix(K);
        g = matrix(W > K ? W : K), d = matrix(W), real = matrix(1);
        last_dead = (Ints *)matrix(1), decided = (Ints *)matrix(1), linear = (Ints *)matrix(1);
    }
    float *take(int64_t n) {
        float *here = cursor;
        return cursor = (float *)((uintptr_t)here + n * sizeof(float)), here;
    }
    Floats *matrix(int64_t units) { return (Floats *)take(units * apart * LANES); }

    Floats *pre(int64_t l) { return a + (call.train ? l : 0) * layer; }
    Floats *post(int64_t l) { return h + (call.train ? l : 0) * layer; }
    int64_t weight(int64_t l) const { return l ? F * W + (l - 1) * W * W : 0; }  // L is the head
    int64_t bias(int64_t l) const { return weights + l * W; }

    // Calls copy(part of the flat parameters, part of the tensors, numbers) for all parts.
    template <typename Copy>
    void parts(float *flat, const Tensors &tensors, Copy copy) {
        if (!tensors.w0) return;
        copy(flat, tensors.w0 + run * W * F, W * F);
        for (int64_t l = 1; l < L; l++)
            copy(flat + weight(l), tensors.wh + ((l - 1) * call.runs + run) * W * W, W * W);
        copy(flat + weight(L), tensors.whead + run * K * W, K * W);
        for (int64_t l = 0; l < L; l++) copy(flat + bias(l), tensors.bias + (l * call.runs + run) * W, W);
        copy(flat + bias(L), tensors.bhead + run * K, K);
    }
    void read(float *flat, const Tensors &tensors) {
        std::memset(flat, 0, padded * sizeof(float));
        parts(flat, tensors, [](float *to, const float *from, int64_t n) { std::memcpy(to, from, n * sizeof *to); });
    }
    void write(float *flat, const Tensors &tensors) {
        parts(flat, tensors, [](const float *from, float *to, int64_t n) { std::memcpy(to, from, n * sizeof *to); });
    }

    void load(int64_t begin) {
        vectors = rounded(rows, PAIR * LANES) / LANES;
        const float *data = call.x + (call.shared_x ? 0 : run * call.rows * F);
        for (int64_t i = 0; i < vectors * LANES; i++) {
            const float *from = data + source(begin + (i < rows ? i : 0)) * F;
            for (int64_t f = 0; f < F; f++) ((float *)(x + f * apart))[i] = from[f];
            ((float *)real)[i] = i < rows;
        }
    }
    int64_t source(int64_t place) const { return call.order ? call.order[run * call.used + place] : place; }

    void forward(bool extremes) {
        double units[2] = {}, points[2] = {};
        for (int64_t l = 0; l < L; l++) {
            const float *w = value + weight(l), *b = value + bias(l);
            // Two calls, as the compiler unrolls the one whose number of inputs it knows.
            if (l) multiply(pre(l), W, post(l - 1), W, w, W, 1, b, vectors, apart);
            else multiply(pre(0), W, x, F, w, F, 1, b, vectors, apart);
            activate(l);
            if (extremes) measure(l, units, points);
        }
        multiply(out, K, post(L - 1), W, value + weight(L), W, 1, value + bias(L), vectors, apart);
        if (extremes) finish(units, points);
    }

    // Activations, and the extremes of the units of a layer.
    void activate(int64_t l) {
        for (int64_t u = 0; u < W; u++) {
            const Floats *from = pre(l) + u * apart;
            Floats *to = post(l) + u * apart, high = from[0], low = from[0];
            for (int64_t v = 0; v < vectors; v++) {
                const Floats now = from[v];
                high = larger(now, high), low = smaller(now, low);
                to[v] = Activation::value(now);
            }
            unit_max[l * W + u] = highest(high), unit_min[l * W + u] = lowest(low);
        }
    }

    // Sums over the points of a layer of how far they are from the margins, and what is to be recorded.
    void measure(int64_t l, double *units, double *points) {
        const float up = call.positive_margin, down = call.negative_margin;
        for (int64_t i = l * W; i < (l + 1) * W; i++) {
            units[0] += std::fmax(up - unit_max[i], 0.0f);
            units[1] += std::fmax(unit_min[i] - down, 0.0f);
        }
        Floats positive = {}, negative = {}, near_positive = {}, near_negative = {};
        Ints dead_cells = {}, linear_cells = {};
        for (int64_t v = 0; v < vectors; v++) {
            Floats high, low;
            point_extremes(pre(l) + v, high, low);
            positive += larger(up - high, all(0)) * real[v];
            negative += larger(low - down, all(0)) * real[v];
            if (!call.record) continue;
            near_positive += larger(1.0f - high, all(0)) * real[v];
            near_negative += larger(1.0f + low, all(0)) * real[v];
            const Ints dead = (high <= 0.0f) & (real[v] > 0.0f), straight = (low > 0.0f) & (real[v] > 0.0f);
            dead_cells -= dead, linear_cells -= straight;
            last_dead[v] = dead ? Ints{} + (int32_t)(l + 1) : l ? last_dead[v] : Ints{};
            decided[v] = dead | straight | (l ? decided[v] : Ints{});
            linear[v] = l ? straight & linear[v] : straight;
        }
        points[0] += sum(positive), points[1] += sum(negative);
        if (!call.record) return;
        double *status = call.status + run * STATUSES;
        for (int64_t i = l * W; i < (l + 1) * W; i++) {
            status[POSITIVE_UNIT] += std::fmax(1 - unit_max[i], 0.0f);
            status[NEGATIVE_UNIT] += std::fmax(1 + unit_min[i], 0.0f);
            call.ever_positive[run * L * W + i] |= unit_max[i] > 0;
            call.ever_nonpositive[run * L * W + i] |= unit_min[i] <= 0;
        }
        status[POSITIVE_POINT] += sum(near_positive), status[NEGATIVE_POINT] += sum(near_negative);
        status[CELLS_DEAD] += sum(dead_cells), status[CELLS_LINEAR] += sum(linear_cells);
    }
    void point_extremes(const Floats *at, Floats &high, Floats &low) const {
        high = low = at[0];
        for (int64_t u = 1; u < W; u++) high = larger(at[u * apart], high), low = smaller(at[u * apart], low);
    }

    // Jumpstart's value and the status of the points over all layers.
    void finish(const double *units, const double *points) {
        penalty = (call.unit_positive * units[0] + call.unit_negative * units[1]) / (L * W) +
                  (call.point_positive * points[0] + call.point_negative * points[1]) / (L * rows);
        // Comparisons have passed over NaN so far; one in any layer is in the last layer too.
        bool nan = false;
        for (int64_t u = 0; u < W; u++) {
            const float *last = (const float *)(pre(L - 1) + u * apart);
            for (int64_t i = 0; i < rows; i++) nan |= last[i] != last[i];
        }
        if (nan) penalty = std::numeric_limits<double>::quiet_NaN();
        if (!call.record) return;
        double *status = call.status + run * STATUSES;
        if (nan) for (int i = POSITIVE_UNIT; i <= NEGATIVE_POINT; i++) status[i] = penalty;
        int64_t dead = 0, straight = 0, undecided = 0, efficient = 0;
        for (int64_t i = 0; i < rows; i++) {
            const int32_t after = ((int32_t *)last_dead)[i];
            dead += after > 0, efficient += L - after;
            straight += ((int32_t *)linear)[i] != 0, undecided += ((int32_t *)decided)[i] == 0;
        }
        status[POINTS_DEAD] += dead, status[POINTS_LINEAR] += straight;
        status[POINTS_NONLINEAR] += undecided, status[CELLS_EFFICIENT] += efficient;
    }

    // Task loss of the batch; its gradient by the outputs into g.
    void judge(int64_t begin) {
        const int64_t *labels = (const int64_t *)call.y + (call.shared_y ? 0 : run * call.rows);
        const float *targets = (const float *)call.y + (call.shared_y ? 0 : run * call.rows * K);
        double *counts = call.counts + run * (call.task == REGRESSION ? 2 * K : 1);
        auto at = [this](Floats *m, int64_t k, int64_t i) -> float & { return ((float *)(m + k * apart))[i]; };
        task_loss = 0;
        if (call.task == REGRESSION) {
            for (int64_t k = 0; k < K; k++)
                for (int64_t i = 0; i < vectors * LANES; i++) {
                    const float error = at(out, k, i) - targets[source(begin + (i < rows ? i : 0)) * K + k];
                    at(g, k, i) = 2 * error;
                    if (!call.record || i >= rows) continue;
                    task_loss += (double)error * error / K;
                    counts[k] += (double)error * error, counts[K + k] += std::fabs((double)error);
                }
        } else if (call.task == BINARY) {
            for (int64_t v = 0; v < vectors; v++) g[v] = logistic(out[v]);
            for (int64_t i = 0; i < rows; i++) {
                const int64_t label = labels[source(begin + i)];
                const float z = at(out, 0, i);
                at(g, 0, i) -= label;
                if (!call.record) continue;
                task_loss += (1 - label) * z + std::log1p(std::exp(-std::fabs(z))) + (z < 0 ? -z : 0);
                counts[0] += (z > 0) == label;
            }
        } else {
            for (int64_t v = 0; v < vectors; v++) {
                Floats most = out[v], total = {};
                for (int64_t k = 1; k < K; k++) most = larger(out[k * apart + v], most);
                for (int64_t k = 0; k < K; k++) total += g[k * apart + v] = exp(out[k * apart + v] - most);
                for (int64_t k = 0; k < K; k++) g[k * apart + v] /= total;
            }
            for (int64_t i = 0; i < rows; i++) {
                const int64_t label = labels[source(begin + i)];
                at(g, label, i) -= 1;
                if (!call.record) continue;
                int64_t best = 0;
                for (int64_t k = 1; k < K; k++)
                    if (at(out, k, i) > at(out, best, i)) best = k;
                float total = 0;
                for (int64_t k = 0; k < K; k++) total += std::exp(at(out, k, i) - at(out, best, i));
                task_loss += std::log(total) - (at(out, label, i) - at(out, best, i));
                counts[0] += best == label;
            }
        }
        task_loss /= rows;
        const float share = call.task_share / rows / (call.task == REGRESSION ? K : 1);
        for (int64_t k = 0; k < K; k++)
            for (int64_t v = 0; v < vectors; v++) g[k * apart + v] *= share * real[v];
    }

    void backward(double strength) {
        differentiate(gradient + weight(L), gradient + bias(L), g, K, post(L - 1), W, vectors, apart);
        for (int64_t v = 0; v < K * apart; v++) out[v] = g[v];  // the outputs are of no more use
        multiply(g, W, out, K, value + weight(L), 1, W, nullptr, vectors, apart);
        for (int64_t l = L - 1; l >= 0; l--) {
            slopes(l, strength);
            if (l) {
                differentiate(gradient + weight(l), gradient + bias(l), d, W, post(l - 1), W, vectors, apart);
                multiply(g, W, d, W, value + weight(l), 1, W, nullptr, vectors, apart);
            } else {
                differentiate(gradient, gradient + bias(0), d, W, x, F, vectors, apart);
            }
        }
    }

    // d: gradient by the pre-activations of a layer, of g, that by its activations, and of Jumpstart.
    void slopes(int64_t l, double strength) {
        const float up = call.positive_margin, down = call.negative_margin;
        const float of_high = -strength * call.point_positive / (L * rows);
        const float of_low = strength * call.point_negative / (L * rows);
        const Floats *a = pre(l), *h = post(l);
        for (int64_t v = 0; v < vectors; v++) {
            Floats from_high = {}, from_low = {}, high = {}, low = {};
            if (strength) {
                point_extremes(a + v, high, low);
                from_high = up - high > 0.0f ? of_high * real[v] : all(0);
                from_low = low - down > 0.0f ? of_low * real[v] : all(0);
            }
            for (int64_t u = 0; u < W; u++) {
                const Floats now = a[u * apart + v];
                Floats more = (now == high ? from_high : all(0)) + (now == low ? from_low : all(0));
                from_high = now == high ? all(0) : from_high;  // the first of equal extremes has had it
                from_low = now == low ? all(0) : from_low;
                d[u * apart + v] = Activation::slope(now, h[u * apart + v], g[u * apart + v]) + more;
            }
        }
        for (int64_t u = 0; strength && u < W; u++) {
            const float high = unit_max[l * W + u], low = unit_min[l * W + u];
            const float raise = up - high > 0 ? strength * call.unit_positive / (L * W) : 0;
            const float lower = low - down > 0 ? strength * call.unit_negative / (L * W) : 0;
            float *to = (float *)(d + u * apart);
            const int64_t top = raise ? first_equal(a + u * apart, high) : 0;
            const int64_t bottom = lower ? first_equal(a + u * apart, low) : 0;
            to[top] += top == bottom ? lower - raise : -raise;  // opposite gradients on one place cancel exactly
            if (top != bottom) to[bottom] += lower;
        }
    }
    int64_t first_equal(const Floats *values, float wanted) const {
        Ints at = Ints{} + (int32_t)vectors, lane;
        for (int i = 0; i < LANES; i++) lane[i] = i;
        for (int64_t v = vectors - 1; v >= 0; v--) at = values[v] == wanted ? Ints{} + (int32_t)v : at;
        const int32_t found = folded<int32_t>(at * LANES + lane, [](int32_t a, int32_t b) { return a < b ? a : b; });
        return found < rows ? found : 0;  // none equals NaN
    }

    void update() {
        const double limit = call.grad_clip[run], lr = call.lr[run];
        if (limit < std::numeric_limits<double>::infinity()) {
            double squares = 0;
            for (int64_t i = 0; i < parameters; i++) squares += (double)gradient[i] * gradient[i];
            const float factor = limit / (std::sqrt(squares) + 1e-6);
            if (!(factor >= 1))  // NaN too
                for (int64_t i = 0; i < parameters; i++) gradient[i] *= factor;
        }
        const int64_t t = ++call.t[run];
        for (int part = 0; part < 2; part++) {
            const int64_t begin = part ? weights : 0, end = part ? parameters : weights;
            const double decay = (part ? call.decay_biases : call.decay)[run];
            float *__restrict p = value, *__restrict m = first, *__restrict s = second;
            const float *__restrict g = gradient;
            const float added = call.optimizer == ADAMW ? 0 : decay;
            if (call.optimizer == SGD) {
                const float rate = lr, momentum = call.momentum[run];
                for (int64_t i = begin; i < end; i++) {
                    const float now = g[i] + added * p[i];
                    m[i] = momentum * m[i] + now;
                    p[i] -= rate * (call.nesterov ? now + momentum * m[i] : m[i]);
                }
                continue;
            }
            const float kept = call.optimizer == ADAMW ? 1 - lr * decay : 1;
            const float rate = lr / (1 - std::pow(call.beta1, t)), root = std::sqrt(1 - std::pow(call.beta2, t));
            const float b1 = 1 - call.beta1, b2 = call.beta2, c2 = 1 - call.beta2, eps = call.eps;
            for (int64_t i = begin; i < end; i++) {
                const float old = p[i] * kept, now = g[i] + added * old;
                m[i] += b1 * (now - m[i]);
                s[i] = b2 * s[i] + c2 * now * now;
                p[i] = old - rate * m[i] / (std::sqrt(s[i]) / root + eps);
            }
        }
    }

    void go(int64_t which) {
        run = which;
        read(value, call.weights), read(first, call.first), read(second, call.second);
        for (int64_t step = 0; step < call.steps; step++) {
            const int64_t begin = step * call.batch, left = call.used - begin;
            rows = left < call.batch ? left : call.batch;
            const double clip = call.clip[run];
            double strength = call.train ? call.strength[run] : 0;
            load(begin);
            forward(call.record || strength != 0);
            judge(begin);
            if (penalty > clip) penalty = clip, strength = 0;
            if (call.record) {
                call.losses[2 * run] += rows * task_loss, call.losses[2 * run + 1] += rows * penalty;
            }
            if (call.train) backward(strength), update();
        }
        if (!call.train) return;
        write(value, call.weights), write(first, call.first), write(second, call.second);
    }
};

extern "C" int64_t size_of_call() { return sizeof(Call); }

// Floats of scratch memory that a thread needs.
extern "C" int64_t scratch_floats(const Call *call) {
    return ((uintptr_t)Run(*call, nullptr).cursor / sizeof(float) + 63) / 64 * 64;
}

extern "C" void execute(const Call *call) {
    std::atomic<int64_t> next{0};
    auto work = [&](int64_t thread) {
        Run worker(*call, call->scratch + thread * call->scratch_per_thread);
        for (int64_t run; (run = next++) < call->runs;) worker.go(run);
    };
    std::vector<std::thread> others;
    for (int64_t i = 1; i < call->threads; i++) others.emplace_back(work, i);
    work(0);
    for (auto &thread : others) thread.join();
}
