"""The public functions: arguments become a problem, the problem a plan, and the plan is called."""
