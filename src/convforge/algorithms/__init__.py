"""What each algorithm refuses, costs and errs, and the stages that do it; no loops over pixels."""
