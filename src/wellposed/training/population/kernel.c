/* One training step of many small networks: every slot goes through forward, loss, backward and update on one thread, so that
 * its activations and gradients stay in that thread's cache, and what a slot computes depends on nothing but itself.
 *
 * The program is a list of operations on values; Python lays both out (see native.py). Matrix products are those of the BLAS
 * that torch itself uses, handed in as function pointers. Compiled for float and for double from kernel_body.h. */

#include <math.h>
#include <stdint.h>
#include <string.h>
#include <omp.h>

enum { LINEAR = 0, POINT = 1, ADD = 2 };
enum { NO_NORM = 0, LAYER_NORM = 1, BATCH_NORM = 2 };
enum { IDENTITY = 0, RELU = 1, SILU = 2, GELU = 3, TANH = 4, SIGMOID = 5, LEAKY_RELU = 6, ELU = 7 };
enum { CROSS_ENTROPY = 0, SQUARED_ERROR = 1, BINARY_CROSS_ENTROPY = 2, ABSOLUTE_ERROR = 3, HUBER = 4 };
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
        average;
} Rule;

/* What one leaf of one slot is charged. */
typedef struct {
    double decay, l1, l2, bound, axis;
} Charge;

typedef struct {
    int64_t count, batch, threads, ops, leaves, buffers, training, sites, workspace_size, outputs, output, scratch, loss;
    const int64_t *active;                       /* (count,) places of the slots */
    const Op *op;
    const int64_t *value, *gradient;             /* offsets in the workspace */
    void *const *param, *const *grad, *const *first, *const *second, *const *third, *const *average;  /* leaf -> (places, stride) */
    const int64_t *size, *stride, *rows, *moves; /* of leaves */
    void *const *buffer, *const *average_buffer; /* -> (places, stride) */
    const int64_t *buffer_size, *buffer_stride;
    const int64_t *averaged;                     /* (count,): evaluate the averages */
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
} Step;

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

/* 16-bit numbers, four from each 64-bit draw: row i of out is the stream of seeds[i]; stride is a multiple of 4. */
void wp_random_bits(int64_t count, const uint64_t *seeds, const int64_t *numbers, int64_t stride, int16_t *out, int64_t threads) {
#pragma omp parallel for num_threads((int)threads) schedule(dynamic, 1)
    for (int64_t i = 0; i < count; i++) draw(seeds[i], (numbers[i] + 3) / 4, (uint64_t *)(out + i * stride));
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
