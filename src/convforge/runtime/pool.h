/* A process-wide pool of threads that share out the items of a program's stages.
 *
 * A caller queues a job, works on it itself, and returns once every item is done. It waits for items that somebody has
 * claimed, never for a thread: where the machine is busy and the workers do not get a core, the caller does the work.
 */
#ifndef CONVFORGE_POOL_H
#define CONVFORGE_POOL_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#define CF_LINE 64
#define CF_SPINS 2000       /* pauses before a wait gives its core away */
#define CF_YIELDS 1000      /* yields before a wait sleeps */
#define CF_NAP_NS 50000     /* how long it then sleeps between two looks */
#define CF_IDLE_NS 50000    /* how long a worker without work looks for more before it yields a few times and sleeps */
#define CF_IDLE_YIELDS 4
#define CF_LOCK_SPINS 64

typedef void (*cf_kernel)(const int64_t *args, char *scratch, int64_t begin, int64_t end);

typedef struct {
    cf_kernel kernel;
    int64_t first_arg; /* index of the stage's first argument */
    int64_t items;
    int64_t grain;
} cf_stage;

/* Items of a stage that are one thread's, until another one has none left of its own. */
typedef struct {
    _Alignas(CF_LINE) int64_t next; /* first item that nobody has claimed */
    int64_t end;
} cf_share;

/* One stage of a job. */
typedef struct {
    _Alignas(CF_LINE) int64_t items;
    int64_t grain;
    cf_kernel kernel;
    const int64_t *args;
    cf_share *shares; /* one for each slot */
    _Alignas(CF_LINE) int64_t done; /* items that have been computed: who waits looks at nothing else */
} cf_part;

/* The caller and each worker that took a slot hold a reference: a worker that comes late may outlive the call. It then
 * finds no item to claim, and only who has claimed an item may touch the arguments and the scratch memory. */
typedef struct cf_job {
    struct cf_job *after; /* the queue; guarded by the pool's mutex, as are free_slots and queued */
    char *scratch;
    int64_t scratch_bytes;
    int64_t count;
    int slots; /* scratch buffers for workers: 1 to slots; 0 is the caller's */
    int free_slots;
    int queued;
    int references;
    cf_part parts[];
} cf_job;

#ifdef __linux__
typedef cpu_set_t cf_cpus;
#else
typedef int cf_cpus;
#endif

/* A worker; guarded by the pool's mutex. */
typedef struct cf_member {
    struct cf_member *under; /* the stack of sleepers */
    pthread_t thread;
    pthread_cond_t wake;
    int asleep;
    int shunned;  /* the CPU that it is kept from, or -1 */
    cf_cpus home; /* the CPUs that it may use but for that */
} cf_member;

static struct {
    pthread_mutex_t mutex;
    cf_job *first, *last;
    cf_member *sleepers; /* who fell asleep last is first */
    int workers;         /* started so far */
    int idle;            /* of them, awake without a job, or about to wake */
    int asleep;
    int pending; /* free slots of the queued jobs; written under the mutex, polled by idle workers without */
    int forked;  /* this is a child: the workers stayed with the parent, the mutex may be locked for ever */
    int registered;
} cf_pool = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static inline void cf_relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__) || defined(__arm__)
    __asm__ __volatile__("yield" ::: "memory");
#else
    __asm__ __volatile__("" ::: "memory");
#endif
}

static inline int64_t cf_nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void cf_lock(void) {
    for (int i = 0; i < CF_LOCK_SPINS; i++) {
        if (pthread_mutex_trylock(&cf_pool.mutex) == 0)
            return;
        cf_relax();
    }
    pthread_mutex_lock(&cf_pool.mutex);
}

static void cf_unlock(void) {
    pthread_mutex_unlock(&cf_pool.mutex);
}

static void cf_wait(const cf_part *part) {
    const struct timespec nap = {0, CF_NAP_NS};
    for (int i = 0; __atomic_load_n(&part->done, __ATOMIC_ACQUIRE) != part->items; i++) {
        if (i < CF_SPINS)
            cf_relax();
        else if (i < CF_SPINS + CF_YIELDS)
            sched_yield();
        else {
            nanosleep(&nap, NULL);
            i--;
        }
    }
}

static int cf_exhausted(const cf_share *share) {
    return __atomic_load_n(&share->next, __ATOMIC_RELAXED) >= share->end;
}

/* A thread takes its own items one after the other: what it reads for one lies beside the next one's. Then it helps the
 * others, so a core that is slowed down takes fewer of its own. */
static void cf_claim(cf_part *part, int slot, int slots, char *scratch) {
    for (int i = 0; i < slots; i++) {
        cf_share *share = &part->shares[(slot + i) % slots];
        while (!cf_exhausted(share)) {
            int64_t begin = __atomic_fetch_add(&share->next, part->grain, __ATOMIC_RELAXED);
            if (begin >= share->end)
                break;
            int64_t end = begin + part->grain < share->end ? begin + part->grain : share->end;
            part->kernel(part->args, scratch, begin, end);
            __atomic_fetch_add(&part->done, end - begin, __ATOMIC_RELEASE);
        }
    }
}

static void cf_work(cf_job *job, int slot) {
    char *scratch = job->scratch + slot * job->scratch_bytes;
    for (int64_t s = 0; s < job->count; s++) {
        if (s > 0)
            cf_wait(&job->parts[s - 1]);
        cf_claim(&job->parts[s], slot, job->slots + 1, scratch);
    }
}

static void cf_release(cf_job *job) {
    if (__atomic_sub_fetch(&job->references, 1, __ATOMIC_ACQ_REL) == 0)
        free(job);
}

/* The functions from here to cf_worker are called with the mutex held. */

static void cf_set_pending(int pending) {
    __atomic_store_n(&cf_pool.pending, pending, __ATOMIC_RELAXED);
}

static void cf_unlink(cf_job *job) {
    cf_job *before = NULL;
    for (cf_job *other = cf_pool.first; other != job; other = other->after)
        before = other;
    if (before == NULL)
        cf_pool.first = job->after;
    else
        before->after = job->after;
    if (cf_pool.last == job)
        cf_pool.last = before;
    cf_set_pending(cf_pool.pending - job->free_slots);
    __atomic_store_n(&job->queued, 0, __ATOMIC_RELEASE); /* last: the caller may free the job now */
}

static int cf_has_items(const cf_job *job) {
    for (int i = 0; i <= job->slots; i++)
        if (!cf_exhausted(&job->parts[job->count - 1].shares[i]))
            return 1;
    return 0;
}

/* Take a slot of the first job that has items left; jobs that have none leave the queue. */
static cf_job *cf_take(int *slot) {
    while (cf_pool.first != NULL) {
        cf_job *job = cf_pool.first;
        if (!cf_has_items(job)) {
            cf_unlink(job);
            continue;
        }
        *slot = job->slots - --job->free_slots;
        cf_set_pending(cf_pool.pending - 1);
        __atomic_add_fetch(&job->references, 1, __ATOMIC_RELAXED);
        if (job->free_slots == 0)
            cf_unlink(job);
        return job;
    }
    return NULL;
}

/* Keep a worker from the caller's CPU. Linux often wakes a thread on the CPU of the thread that wakes it, above all in
 * virtual machines, where the CPU that it last ran on passes for taken while it is halted: the worker would then wait
 * for the caller, which is about to compute for milliseconds, beside a CPU without work. */
static void cf_shun(cf_member *member, int cpu) {
#ifdef __linux__
    cf_cpus now, others = member->home;
    if (member->shunned == cpu || pthread_getaffinity_np(member->thread, sizeof now, &now) != 0)
        return;
    if (member->shunned >= 0)
        CPU_CLR(member->shunned, &others);
    if (member->shunned < 0 || !CPU_EQUAL(&now, &others)) /* somebody else has set it */
        member->home = now;
    others = member->home;
    CPU_CLR(cpu, &others);
    if (CPU_COUNT(&others) > 0 && pthread_setaffinity_np(member->thread, sizeof others, &others) == 0)
        member->shunned = cpu;
#else
    (void)member;
    (void)cpu;
#endif
}

static void cf_wake(int count) {
#ifdef __linux__
    int cpu = sched_getcpu();
#else
    int cpu = -1;
#endif
    for (int i = 0; i < count; i++) {
        cf_member *member = cf_pool.sleepers;
        cf_pool.sleepers = member->under;
        cf_pool.asleep--;
        cf_pool.idle++;
        if (cpu >= 0)
            cf_shun(member, cpu);
        member->asleep = 0;
        pthread_cond_signal(&member->wake);
    }
}

static void *cf_worker(void *argument) {
    cf_member *self = argument;
    cf_lock();
    for (;;) {
        int slot;
        cf_job *job = cf_take(&slot);
        if (job != NULL) {
            cf_pool.idle--;
            cf_unlock();
            cf_work(job, slot);
            cf_release(job);
            cf_lock();
            cf_pool.idle++;
            continue;
        }
        cf_unlock();
        int64_t until = cf_nanoseconds() + CF_IDLE_NS;
        for (int i = 1, yields = 0; __atomic_load_n(&cf_pool.pending, __ATOMIC_RELAXED) == 0; i++) {
            if (yields == 0 && (i % 16 != 0 || cf_nanoseconds() < until))
                cf_relax();
            else if (yields++ < CF_IDLE_YIELDS)
                sched_yield();
            else
                break;
        }
        cf_lock();
        if (cf_pool.pending == 0) {
            cf_pool.idle--;
            cf_pool.asleep++;
            self->asleep = 1;
            self->under = cf_pool.sleepers;
            cf_pool.sleepers = self;
            while (self->asleep)
                pthread_cond_wait(&self->wake, &cf_pool.mutex);
        }
    }
    return NULL;
}

static void cf_after_fork(void) {
    cf_pool.forked = 1;
}

/* Start workers until there are as many as wanted, or the system has no more to give. */
static void cf_start(int wanted) {
    sigset_t all, before;
    pthread_attr_t attributes;
    if (cf_pool.workers >= wanted || pthread_attr_init(&attributes) != 0)
        return;
    if (!cf_pool.registered && pthread_atfork(NULL, NULL, cf_after_fork) == 0)
        cf_pool.registered = 1;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* inherited: signals are for the program's own threads */
    while (cf_pool.registered && cf_pool.workers < wanted) {
        cf_member *member = calloc(1, sizeof(cf_member));
        if (member == NULL)
            break;
        member->shunned = -1;
        if (pthread_cond_init(&member->wake, NULL) != 0 ||
            pthread_create(&member->thread, &attributes, cf_worker, member) != 0) {
            free(member);
            break;
        }
        cf_pool.workers++;
        cf_pool.idle++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
}

/* Queue a job, and wake as many sleepers as it takes beside the workers that are looking for work. */
static void cf_submit(cf_job *job) {
    cf_lock();
    cf_start(job->slots);
    if (cf_pool.first == NULL)
        cf_pool.first = job;
    else
        cf_pool.last->after = job;
    cf_pool.last = job;
    cf_set_pending(cf_pool.pending + job->free_slots);
    int wake = cf_pool.pending - cf_pool.idle;
    wake = wake < job->slots ? wake : job->slots;
    cf_wake(wake < cf_pool.asleep ? wake : cf_pool.asleep);
    cf_unlock();
}

/* Run the stages on the calling thread and at most `slots` workers; 0 where there is no memory for it. */
static int cf_run_shared(const cf_stage *stages, int64_t count, const int64_t *args, char *scratch,
                         int64_t scratch_bytes, int slots) {
    size_t bytes = sizeof(cf_job) + (size_t)count * (sizeof(cf_part) + (slots + 1) * sizeof(cf_share));
    cf_job *job = aligned_alloc(CF_LINE, bytes);
    if (job == NULL)
        return 0;
    cf_share *shares = (cf_share *)&job->parts[count];
    job->after = NULL;
    job->scratch = scratch;
    job->scratch_bytes = scratch_bytes;
    job->count = count;
    job->slots = job->free_slots = slots;
    job->queued = 1;
    job->references = 1;
    for (int64_t s = 0; s < count; s++) {
        cf_part *part = &job->parts[s];
        int64_t grain = stages[s].grain, pieces = (stages[s].items + grain - 1) / grain;
        for (int i = 0; i <= slots; i++) {
            shares[i].next = pieces * i / (slots + 1) * grain;
            shares[i].end = pieces * (i + 1) / (slots + 1) * grain;
        }
        shares[slots].end = stages[s].items;
        part->shares = shares;
        shares += slots + 1;
        part->done = 0;
        part->items = stages[s].items;
        part->grain = stages[s].grain;
        part->kernel = stages[s].kernel;
        part->args = args + stages[s].first_arg;
    }
    cf_submit(job);
    cf_work(job, 0);
    if (__atomic_load_n(&job->queued, __ATOMIC_ACQUIRE)) { /* nobody may find it any more: it never comes back */
        cf_lock();
        if (job->queued)
            cf_unlink(job);
        cf_unlock();
    }
    cf_wait(&job->parts[count - 1]);
    cf_release(job);
    return 1;
}

#endif
