/* Runs a program's stages, each a parallel loop over its items, as one job of the pool: one wake-up for all of them. */
#ifndef CONVFORGE_RUNNER_H
#define CONVFORGE_RUNNER_H

#include "pool.h" /* first: it asks for GNU's declarations */

#include <omp.h>

static void cf_run(const cf_stage *stages, int64_t count, const int64_t *args, char *scratch, int64_t scratch_bytes,
                   int threads) {
    int64_t pieces = 1; /* of the stage that has most */
    for (int64_t s = 0; s < count; s++)
        if (pieces * stages[s].grain < stages[s].items)
            pieces = (stages[s].items + stages[s].grain - 1) / stages[s].grain;
    int slots = (pieces < threads ? (int)pieces : threads) - 1;
    if (slots > 0 && !cf_pool.forked && cf_run_shared(stages, count, args, scratch, scratch_bytes, slots))
        return;
    for (int64_t s = 0; s < count; s++)
        stages[s].kernel(args + stages[s].first_arg, scratch, 0, stages[s].items);
}

/* Cores that this thread may run on. */
static int cf_affinity(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0)
        return 1 << 20; /* more CPUs than a cpu_set_t holds: no limit from here */
    return CPU_COUNT(&set);
}

#endif
