"""How networks are trained: configurations, one loop, status metrics, run folders, plots and tracking."""
