/* One training step of many small networks: every slot goes through forward, loss, backward and update on one thread, so that
 * its activations and gradients stay in that thread's cache, and what a slot computes depends on nothing but itself.
 *
 * The program is a list of operations on values; Python lays both out (see native.py). Matrix products are those of the BLAS
 * that torch itself uses, handed in as function pointers. Compiled for float and for double from kernel_body.h.
 *
 * Threads are a small pool of our own. Whoever is free takes the next slot, and a call returns when all slots are done, not when
 * all threads have come: on a busy machine, where a sleeping thread may need milliseconds to be woken, the caller does the work
 * itself, while an OpenMP region would wait. */

#define _GNU_SOURCE
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LINEAR = 0, POINT = 1, ADD = 2 };
enum { NO_NORM = 0, LAYER_NORM = 1, BATCH_NORM = 2 };
enum { IDENTITY = 0, RELU = 1, SILU = 2, GELU = 3, TANH = 4, SIGMOID = 5, LEAKY_RELU = 6, ELU = 7 };
enum { CROSS_ENTROPY = 0, SQUARED_ERROR = 1, BINARY_CROSS_ENTROPY = 2, ABSOLUTE_ERROR = 3, HUBER = 4, AVERAGED = 8 };
enum { NO_UPDATE = 0, ADAM = 1, RMSPROP = 2, SGD = 3 };
enum { SKIP = -1, ADD_TO = 0, ASSIGN = 1 };

typedef struct {
    int64_t kind, in, in2, out, rows, width_in, width;
    int64_t weight, bias, gamma, beta, mean, var;
    int64_t norm, act, site, keep, stats, to, to2;
    double eps, momentum, slope;
} Op;

/* How one slot is updated; see `Rules` in update.py for the formulas. */
typedef struct {
    double kind, lr, beta1, beta2, eps, correction1, root2, decay, coupled, momentum, dampening, nesterov, first, clip, ramp,
        average, buffers, radius, adaptive, eta, confidence;
} Rule;

/* What one leaf of one slot is charged. */
typedef struct {
    double decay, l1, l2, bound, bound_axis, group, group_axis, sparse;
} Charge;

typedef struct {
    int64_t count, batch, threads, ops, leaves, buffers, training, sites, workspace_size, outputs, output, scratch, loss, steps;
    const int64_t *active;                       /* (count,) places of the slots */
    const Op *op;
    const int64_t *value, *gradient;             /* offsets in the workspace */
    void *const *param, *const *grad, *const *first, *const *second, *const *noisy, *const *average;  /* leaf -> (places, stride) */
    const int64_t *size, *stride, *rows, *moves; /* of leaves */
    void *const *buffer, *const *average_buffer; /* -> (places, stride) */
    const int64_t *buffer_size, *buffer_stride;
    int64_t *source;                             /* (count,): 0 the weights, 1 their averages, 2 with noise */
    void *const *x;                              /* (count,) -> (batch, width) */
    const int64_t *const *label, *const *label2;
    void *const *target;
    void *const *weight;                         /* (count,) -> (batch,), or null */
    const double *smoothing, *mix;
    const int16_t *const *bits;                  /* (count, sites) */
    const int32_t *threshold;                    /* (count, sites) */
    const double *scale;
    const Rule *rule;
    const Charge *charge;                        /* (count, leaves) */
    double *cost, *norm;                         /* (count,) */
    void *out;                                   /* (count, batch, outputs), evaluation */
    void *workspace;
    void *gemm;
    int (*blas_threads)(int);
} Step;                                        /* where steps > 1, the first of so many in a row */

/* mt19937 as torch's CPU generator has it: 64-bit draws are two outputs, the first one high. */
#define N 624
#define M 397

static void refill(uint32_t *restrict s) {
    int i;
    for (i = 0; i < N - M; i++) {
        uint32_t y = (s[i] & 0x80000000u) | (s[i + 1] & 0x7fffffffu);
        s[i] = s[i + M] ^ (y >> 1) ^ (-(y & 1u) & 0x9908b0dfu);
    }
    for (; i < N - 1; i++) {
        uint32_t y = (s[i] & 0x80000000u) | (s[i + 1] & 0x7fffffffu);
        s[i] = s[i + M - N] ^ (y >> 1) ^ (-(y & 1u) & 0x9908b0dfu);
    }
    uint32_t y = (s[N - 1] & 0x80000000u) | (s[0] & 0x7fffffffu);
    s[N - 1] = s[M - 1] ^ (y >> 1) ^ (-(y & 1u) & 0x9908b0dfu);
}

static void draw(uint64_t seed, int64_t words, uint64_t *restrict out) {
    uint32_t s[N], tempered[N];
    s[0] = (uint32_t)seed;
    for (int i = 1; i < N; i++) s[i] = 1812433253u * (s[i - 1] ^ (s[i - 1] >> 30)) + (uint32_t)i;
    for (int64_t done = 0; done < words; done += N / 2) {
        refill(s);
        for (int i = 0; i < N; i++) {
            uint32_t y = s[i];
            y ^= y >> 11;
            y ^= (y << 7) & 0x9d2c5680u;
            y ^= (y << 15) & 0xefc60000u;
            tempered[i] = y ^ (y >> 18);
        }
        int64_t some = words - done < N / 2 ? words - done : N / 2;
        for (int64_t i = 0; i < some; i++)
            out[done + i] = (uint64_t)tempered[2 * i] << 32 | tempered[2 * i + 1];
    }
}

/* --- threads */

typedef void (*Work)(const void *given, int64_t j, int64_t thread);

enum { MOST = 64, PATIENCE = 100000 }; /* threads; nanoseconds that a thread looks for work before it sleeps */

static struct {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    _Atomic uint64_t ticket; /* which call (high 32 bits), and its next piece (low) */
    _Atomic int64_t done;
    int64_t count, threads;
    Work work;
    const void *given;
    pid_t process;
} pool;
static pthread_mutex_t using = PTHREAD_MUTEX_INITIALIZER;

static void take(uint32_t call, int64_t count, Work work, const void *given, int64_t thread) {
    uint64_t ticket = atomic_load(&pool.ticket);
    while ((uint32_t)(ticket >> 32) == call && (int64_t)(uint32_t)ticket < count) {
        if (!atomic_compare_exchange_weak(&pool.ticket, &ticket, ticket + 1)) continue;
        work(given, (int64_t)(uint32_t)ticket, thread);
        atomic_fetch_add(&pool.done, 1);
        ticket = atomic_load(&pool.ticket);
    }
}

static void *worker(void *argument) {
    int64_t thread = (int64_t)(intptr_t)argument;
    uint32_t seen = 0;
    for (;;) {
        struct timespec from, now;
        clock_gettime(CLOCK_MONOTONIC, &from);
        while ((uint32_t)(atomic_load(&pool.ticket) >> 32) == seen) {
            sched_yield();
            clock_gettime(CLOCK_MONOTONIC, &now);
            if ((now.tv_sec - from.tv_sec) * 1000000000L + now.tv_nsec - from.tv_nsec > PATIENCE) break;
        }
        pthread_mutex_lock(&pool.lock);
        while ((uint32_t)(atomic_load(&pool.ticket) >> 32) == seen) pthread_cond_wait(&pool.wake, &pool.lock);
        seen = (uint32_t)(atomic_load(&pool.ticket) >> 32);
        int64_t count = thread < pool.threads ? pool.count : 0;
        Work work = pool.work;
        const void *given = pool.given;
        pthread_mutex_unlock(&pool.lock);
        take(seen, count, work, given, thread);
    }
    return 0;
}

/* work(given, j, thread) for every j below count, on up to so many threads; one at a time in a process. */
static void share(int64_t count, int64_t threads, Work work, const void *given) {
    static int64_t workers = 0;
    if (threads > MOST) threads = MOST;
    if (threads > count) threads = count;
    if (threads <= 1 || pthread_mutex_trylock(&using)) {
        for (int64_t j = 0; j < count; j++) work(given, j, 0);
        return;
    }
    if (pool.process != getpid()) { /* the first call, or the first after a fork, which leaves threads behind */
        pthread_mutex_init(&pool.lock, 0);
        pthread_cond_init(&pool.wake, 0);
        pool.process = getpid();
        workers = 0;
    }
    pthread_mutex_lock(&pool.lock);
    uint32_t call = (uint32_t)(atomic_load(&pool.ticket) >> 32) + 1;
    pool.count = count, pool.threads = threads, pool.work = work, pool.given = given;
    atomic_store(&pool.done, 0);
    atomic_store(&pool.ticket, (uint64_t)call << 32);
    pthread_cond_broadcast(&pool.wake);
    pthread_mutex_unlock(&pool.lock);
    for (; workers < threads - 1; workers++) {
        pthread_t thread;
        pthread_attr_t attributes;
        pthread_attr_init(&attributes);
        pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
        int failed = pthread_create(&thread, &attributes, worker, (void *)(intptr_t)(workers + 1));
        pthread_attr_destroy(&attributes);
        if (failed) break;
    }
    take(call, count, work, given, 0);
    while (atomic_load(&pool.done) < count) sched_yield();
    pthread_mutex_unlock(&using);
}

/* --- random bits */

typedef struct {
    const uint64_t *seeds;
    const int64_t *numbers;
    int64_t stride;
    int16_t *out;
} Draws;

static void draw_row(const void *given, int64_t i, int64_t thread) {
    const Draws *d = given;
    (void)thread;
    draw(d->seeds[i], (d->numbers[i] + 3) / 4, (uint64_t *)(d->out + i * d->stride));
}

/* 16-bit numbers, four from each 64-bit draw: row i of out is the stream of seeds[i]; stride is a multiple of 4. */
void wp_random_bits(int64_t count, const uint64_t *seeds, const int64_t *numbers, int64_t stride, int16_t *out, int64_t threads) {
    Draws d = {seeds, numbers, stride, out};
    int64_t total = 0;
    for (int64_t i = 0; i < count; i++) total += numbers[i];
    share(count, total < 100000 ? 1 : threads, draw_row, &d);
}

int64_t wp_sizes(int64_t which) {
    return which == 0 ? sizeof(Op) : which == 1 ? sizeof(Rule) : which == 2 ? sizeof(Charge) : sizeof(Step);
}

static inline float exp_f(float x) {
    x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    float n = floorf(x * 1.44269504088896341f + 0.5f);
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    int32_t e = ((int32_t)n + 127) << 23;
    float two;
    memcpy(&two, &e, 4);
    return p * two;
}
/* Error below 1.5e-7, which is half of a float's last place at 1 (Abramowitz & Stegun 7.1.26). */
static inline float erf_f(float x) {
    float a = fabsf(x), t = 1.0f / (1.0f + 0.3275911f * a);
    float p = t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
    float y = 1.0f - p * exp_f(-a * a);
    return x < 0.0f ? -y : y;
}
static inline float tanh_f(float x) { return 1.0f - 2.0f / (exp_f(2.0f * x) + 1.0f); }
static inline double exp_d(double x) { return exp(x); }
static inline double erf_d(double x) { return erf(x); }
static inline double tanh_d(double x) { return tanh(x); }
static inline float root_f(float x) { return sqrtf(x); }
static inline double root_d(double x) { return sqrt(x); }

#define REAL float
#define FN(name) name##_f
#include "kernel_body.h"
#undef REAL
#undef FN
#define REAL double
#define FN(name) name##_d
#include "kernel_body.h"
