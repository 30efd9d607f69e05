/* Runs a program's stages, each a parallel loop over its items, in one OpenMP region: one wake-up for all of them. */
#ifndef CONVFORGE_RUNNER_H
#define CONVFORGE_RUNNER_H

#include <omp.h>
#include <sched.h>
#include <stdint.h>
#include <stdlib.h>

typedef void (*cf_kernel)(const int64_t *args, char *scratch, int64_t begin, int64_t end);

typedef struct {
    cf_kernel kernel;
    int64_t first_arg; /* index of the stage's first argument */
    int64_t items;
    int64_t grain;
} cf_stage;

/* Items are handed out dynamically, so a core that is slowed down by others takes fewer of them. */
static void cf_work(const cf_stage *stage, int64_t *next, const int64_t *args, char *scratch) {
    for (;;) {
        int64_t begin = __atomic_fetch_add(next, stage->grain, __ATOMIC_RELAXED);
        if (begin >= stage->items)
            return;
        int64_t end = begin + stage->grain;
        stage->kernel(args + stage->first_arg, scratch, begin, end < stage->items ? end : stage->items);
    }
}

static void cf_run(const cf_stage *stages, int64_t count, const int64_t *args, char *scratch, int64_t scratch_bytes,
                   int threads, int64_t *next) {
    for (int64_t s = 0; s < count; s++)
        next[s] = 0;
    if (threads <= 1) {
        for (int64_t s = 0; s < count; s++)
            stages[s].kernel(args + stages[s].first_arg, scratch, 0, stages[s].items);
        return;
    }
#pragma omp parallel num_threads(threads)
    {
        char *own = scratch + omp_get_thread_num() * scratch_bytes;
        for (int64_t s = 0; s < count; s++) {
            cf_work(&stages[s], &next[s], args, own);
#pragma omp barrier
        }
    }
}

/* Cores that this thread may run on. */
static int cf_affinity(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0)
        return 1 << 20; /* more CPUs than a cpu_set_t holds: no limit from here */
    return CPU_COUNT(&set);
}

#endif
