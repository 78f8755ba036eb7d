/* Included twice by kernel.c, for REAL float and double; FN(name) is the name with its suffix. */

typedef void (*FN(Gemm))(const char *, const char *, const int *, const int *, const int *, const REAL *, const REAL *, const int *,
                         const REAL *, const int *, const REAL *, REAL *, const int *);

/* Row-major c (m, n) = a (m, k) b (k, n) + kept * c, either side transposed; BLAS is column-major, so that sides change places. */
static inline void FN(product)(const Step *s, int ta, int tb, int64_t m, int64_t n, int64_t k, const REAL *a, const REAL *b,
                               REAL kept, REAL *c) {
    const REAL one = 1;
    int im = (int)m, in = (int)n, ik = (int)k, lda = (int)(ta ? m : k), ldb = (int)(tb ? k : n);
    ((FN(Gemm))s->gemm)(tb ? "T" : "N", ta ? "T" : "N", &in, &im, &ik, &one, b, &ldb, a, &lda, &kept, c, &in);
}

static inline REAL FN(sigmoid)(REAL x) { return (REAL)1 / ((REAL)1 + FN(exp)(-x)); }

static void FN(activate)(int64_t act, int64_t n, REAL slope, const REAL *restrict y, REAL *restrict h) {
    int64_t i;
    switch (act) {
    case IDENTITY: for (i = 0; i < n; i++) h[i] = y[i]; break;
    case RELU: for (i = 0; i < n; i++) h[i] = y[i] > 0 || y[i] != y[i] ? y[i] : 0; break;
    case SILU: for (i = 0; i < n; i++) h[i] = y[i] * FN(sigmoid)(y[i]); break;
    case GELU: for (i = 0; i < n; i++) h[i] = (REAL)0.5 * y[i] * (1 + FN(erf)(y[i] * (REAL)0.70710678118654752440)); break;
    case TANH: for (i = 0; i < n; i++) h[i] = FN(tanh)(y[i]); break;
    case SIGMOID: for (i = 0; i < n; i++) h[i] = FN(sigmoid)(y[i]); break;
    case LEAKY_RELU: for (i = 0; i < n; i++) h[i] = y[i] > 0 ? y[i] : slope * y[i]; break;
    case ELU: for (i = 0; i < n; i++) h[i] = y[i] > 0 ? y[i] : slope * (FN(exp)(y[i]) - 1); break;
    }
}

/* d <- d * h'(y) */
static void FN(derive)(int64_t act, int64_t n, REAL slope, const REAL *restrict y, REAL *restrict d) {
    int64_t i;
    switch (act) {
    case RELU: for (i = 0; i < n; i++) d[i] = y[i] > 0 ? d[i] : 0; break;
    case SILU:
        for (i = 0; i < n; i++) {
            REAL p = FN(sigmoid)(y[i]);
            d[i] *= p * (1 + y[i] * (1 - p));
        }
        break;
    case GELU:
        for (i = 0; i < n; i++) {
            REAL c = (REAL)0.5 * (1 + FN(erf)(y[i] * (REAL)0.70710678118654752440));
            d[i] *= c + y[i] * (REAL)0.39894228040143267794 * FN(exp)((REAL)-0.5 * y[i] * y[i]);
        }
        break;
    case TANH:
        for (i = 0; i < n; i++) {
            REAL t = FN(tanh)(y[i]);
            d[i] *= 1 - t * t;
        }
        break;
    case SIGMOID:
        for (i = 0; i < n; i++) {
            REAL p = FN(sigmoid)(y[i]);
            d[i] *= p * (1 - p);
        }
        break;
    case LEAKY_RELU: for (i = 0; i < n; i++) d[i] *= y[i] > 0 ? 1 : slope; break;
    case ELU: for (i = 0; i < n; i++) d[i] *= y[i] > 0 ? 1 : slope * FN(exp)(y[i]); break;
    }
}

static inline void FN(mask)(int64_t n, const int16_t *restrict bits, int32_t threshold, REAL scale, REAL *restrict h) {
    for (int64_t i = 0; i < n; i++) h[i] = bits[i] >= threshold ? h[i] * scale : 0;
}

static inline const REAL *FN(leaf)(const Step *s, int64_t which, int64_t j, int64_t place) {
    void *const *from = s->source[j] == 0 ? s->param : s->source[j] == 1 ? s->average : s->noisy;
    return which < 0 ? 0 : (const REAL *)from[which] + place * s->stride[which];
}

/* `counts`: whether batch norms take this pass into their running statistics. */
static void FN(forward)(const Step *s, int64_t j, REAL *w, int counts) {
    int64_t place = s->active[j];
    for (int64_t o = 0; o < s->ops; o++) {
        const Op *op = s->op + o;
        int64_t rows = op->rows * s->batch, n = op->width;
        const REAL *in = op->in == 0 ? (const REAL *)s->x[j] : w + s->value[op->in];
        REAL *out = w + s->value[op->out];
        if (op->kind == LINEAR) {
            const REAL *bias = FN(leaf)(s, op->bias, j, place);
            if (bias)
                for (int64_t r = 0; r < rows; r++) memcpy(out + r * n, bias, n * sizeof(REAL));
            FN(product)(s, 0, 1, rows, n, op->width_in, in, FN(leaf)(s, op->weight, j, place), bias ? 1 : 0, out);
            continue;
        }
        if (op->kind == ADD) {
            const REAL *other = op->in2 == 0 ? (const REAL *)s->x[j] : w + s->value[op->in2];
            for (int64_t i = 0; i < rows * n; i++) out[i] = in[i] + other[i];
            continue;
        }
        REAL *keep = w + op->keep, *stats = w + op->stats;
        const REAL *gamma = FN(leaf)(s, op->gamma, j, place), *beta = FN(leaf)(s, op->beta, j, place);
        if (op->norm == LAYER_NORM) {
            for (int64_t r = 0; r < rows; r++) {
                const REAL *z = in + r * n;
                REAL *k = keep + r * n, mean = 0, square = 0;
#pragma omp simd reduction(+ : mean)
                for (int64_t i = 0; i < n; i++) mean += z[i];
                mean /= n;
#pragma omp simd reduction(+ : square)
                for (int64_t i = 0; i < n; i++) square += (z[i] - mean) * (z[i] - mean);
                /* A sum that overflows is no number, as in torch: 1/inf would hide that the run has diverged. */
                REAL rstd = isfinite(square) ? 1 / (REAL)sqrt((double)(square / n + (REAL)op->eps)) : (REAL)NAN;
                stats[r] = rstd;
                for (int64_t i = 0; i < n; i++) k[i] = (z[i] - mean) * rstd;
            }
        } else if (op->norm == BATCH_NORM) {
            REAL *shift = w + s->scratch, *square = shift + n;
            void *const *from = s->source[j] == 1 ? s->average_buffer : s->buffer;
            REAL *mean = (REAL *)from[op->mean] + place * s->buffer_stride[op->mean];
            REAL *var = (REAL *)from[op->var] + place * s->buffer_stride[op->var];
            if (s->training) {
                memset(shift, 0, 2 * n * sizeof(REAL));
                for (int64_t r = 0; r < rows; r++)
                    for (int64_t i = 0; i < n; i++) shift[i] += in[r * n + i];
                for (int64_t i = 0; i < n; i++) shift[i] /= rows;
                for (int64_t r = 0; r < rows; r++)
                    for (int64_t i = 0; i < n; i++) square[i] += (in[r * n + i] - shift[i]) * (in[r * n + i] - shift[i]);
                REAL m = (REAL)op->momentum;
                for (int64_t i = 0; i < n && counts; i++) {
                    mean[i] = (1 - m) * mean[i] + m * shift[i];
                    var[i] = (1 - m) * var[i] + m * square[i] / (rows - 1);
                }
                for (int64_t i = 0; i < n; i++) {
                    stats[i] = 1 / (REAL)sqrt((double)(square[i] / rows + (REAL)op->eps));
                }
            } else {
                for (int64_t i = 0; i < n; i++) {
                    shift[i] = mean[i];
                    stats[i] = 1 / (REAL)sqrt((double)(var[i] + (REAL)op->eps));
                }
            }
            for (int64_t r = 0; r < rows; r++)
                for (int64_t i = 0; i < n; i++) keep[r * n + i] = (in[r * n + i] - shift[i]) * stats[i];
        } else if (keep != in) {
            memcpy(keep, in, rows * n * sizeof(REAL));
        }
        REAL *line = w + s->scratch;
        int drops = s->training && op->site >= 0 && s->scale[j * s->sites + op->site] != 1.0;
        for (int64_t r = 0; r < rows; r++) {
            const REAL *y = keep + r * n;
            if (gamma) {
                if (beta) for (int64_t i = 0; i < n; i++) line[i] = y[i] * gamma[i] + beta[i];
                else for (int64_t i = 0; i < n; i++) line[i] = y[i] * gamma[i];
                y = line;
            }
            FN(activate)(op->act, n, (REAL)op->slope, y, out + r * n);
            if (drops)
                FN(mask)(n, s->bits[j * s->sites + op->site] + r * n, s->threshold[j * s->sites + op->site],
                         (REAL)s->scale[j * s->sites + op->site], out + r * n);
        }
    }
}

/* The mean loss of a slot, with what confidence costs; its gradient by the outputs goes to g. */
static double FN(loss)(const Step *s, int64_t j, const REAL *f, REAL *g) {
    int64_t c = s->outputs, loss = s->loss & ~(int64_t)AVERAGED;
    const REAL *weight = s->weight ? (const REAL *)s->weight[j] : 0;
    double size = s->batch, total = 0, charged = 0;
    REAL sure = (REAL)(s->rule[j].confidence / s->batch);
    if (weight) {
        size = 0;
        for (int64_t i = 0; i < s->batch; i++) size += weight[i];
        if (size < 1.1754943508222875e-38) size = 1.1754943508222875e-38;
    }
    if (s->loss & AVERAGED) size *= c; /* each output counts as one in the mean */
    for (int64_t i = 0; i < s->batch; i++) {
        const REAL *a = f + i * c;
        REAL *d = g + i * c, share = (REAL)((weight ? weight[i] : 1) / size);
        double value = 0;
        if (loss == CROSS_ENTROPY) {
            REAL top = a[0], sum = 0, mean = 0;
            for (int64_t q = 1; q < c; q++) top = a[q] > top ? a[q] : top;
            for (int64_t q = 0; q < c; q++) {
                d[q] = FN(exp)(a[q] - top);
                sum += d[q];
                mean += a[q] - top;
            }
            REAL lse = (REAL)log((double)sum), smooth = (REAL)s->smoothing[j], mix = (REAL)s->mix[j];
            int64_t y = s->label[j][i], y2 = s->label2[j][i];
            value = lse - (1 - smooth) * (mix * (a[y] - top) + (1 - mix) * (a[y2] - top)) - smooth * mean / c;
            for (int64_t q = 0; q < c; q++) d[q] = share * (d[q] / sum - smooth / c);
            d[y] -= share * (1 - smooth) * mix;
            d[y2] -= share * (1 - smooth) * (1 - mix);
            if (sure > 0) { /* the divergence of the predicted classes from equal chances */
                REAL along = 0;
                for (int64_t q = 0; q < c; q++) along += FN(exp)(a[q] - top) / sum * (a[q] - top - lse);
                for (int64_t q = 0; q < c; q++) d[q] += sure * FN(exp)(a[q] - top) / sum * (a[q] - top - lse - along);
                charged += along + log((double)c);
            }
        } else {
            const REAL *t = (const REAL *)s->target[j] + i * c;
            for (int64_t q = 0; q < c; q++) {
                REAL r = a[q] - t[q], slope;
                if (loss == SQUARED_ERROR) {
                    value += r * r;
                    slope = 2 * r;
                } else if (loss == ABSOLUTE_ERROR) {
                    value += r < 0 ? -r : r;
                    slope = r > 0 ? 1 : r < 0 ? -1 : 0;
                } else if (loss == HUBER) {
                    REAL e = r < 0 ? -r : r;
                    value += e <= 1 ? (REAL)0.5 * r * r : e - (REAL)0.5;
                    slope = r > 1 ? 1 : r < -1 ? -1 : r;
                } else {
                    REAL e = a[q] < 0 ? -a[q] : a[q];
                    value += (a[q] > 0 ? a[q] : 0) - a[q] * t[q] + (REAL)log1p((double)FN(exp)(-e));
                    slope = FN(sigmoid)(a[q]) - t[q];
                }
                d[q] = share * slope;
            }
        }
        total += value * (weight ? weight[i] : 1);
    }
    return total / size + s->rule[j].confidence * charged / s->batch;
}

static inline void FN(give)(int64_t to, int64_t n, const REAL *restrict from, REAL *restrict into) {
    if (to == ASSIGN)
        memcpy(into, from, n * sizeof(REAL));
    else
        for (int64_t i = 0; i < n; i++) into[i] += from[i];
}

static void FN(backward)(const Step *s, int64_t j, REAL *w) {
    int64_t place = s->active[j];
    for (int64_t o = s->ops - 1; o >= 0; o--) {
        const Op *op = s->op + o;
        int64_t rows = op->rows * s->batch, n = op->width;
        REAL *g = w + s->gradient[op->out];
        REAL *into = op->to == SKIP ? 0 : w + s->gradient[op->in];
        if (op->kind == LINEAR) {
            const REAL *in = op->in == 0 ? (const REAL *)s->x[j] : w + s->value[op->in];
            FN(product)(s, 1, 0, n, op->width_in, rows, g, in, 0, (REAL *)s->grad[op->weight] + place * s->stride[op->weight]);
            if (op->bias >= 0) {
                REAL *b = (REAL *)s->grad[op->bias] + place * s->stride[op->bias];
                memset(b, 0, n * sizeof(REAL));
                for (int64_t r = 0; r < rows; r++)
                    for (int64_t i = 0; i < n; i++) b[i] += g[r * n + i];
            }
            if (into)
                FN(product)(s, 0, 0, rows, op->width_in, n, g, FN(leaf)(s, op->weight, j, place), op->to == ASSIGN ? 0 : 1, into);
            continue;
        }
        if (op->kind == ADD) {
            if (into && into != g) FN(give)(op->to, rows * n, g, into);
            if (op->to2 != SKIP && w + s->gradient[op->in2] != g) FN(give)(op->to2, rows * n, g, w + s->gradient[op->in2]);
            continue;
        }
        const REAL *keep = w + op->keep, *stats = w + op->stats;
        const REAL *gamma = FN(leaf)(s, op->gamma, j, place), *beta = FN(leaf)(s, op->beta, j, place);
        REAL *dgamma = op->gamma < 0 ? 0 : (REAL *)s->grad[op->gamma] + place * s->stride[op->gamma];
        REAL *dbeta = op->beta < 0 ? 0 : (REAL *)s->grad[op->beta] + place * s->stride[op->beta];
        REAL *line = w + s->scratch, *sum = line + n, *product = sum + n;
        if (dgamma) memset(dgamma, 0, n * sizeof(REAL));
        if (dbeta) memset(dbeta, 0, n * sizeof(REAL));
        memset(sum, 0, 2 * n * sizeof(REAL));
        int drops = op->site >= 0 && s->scale[j * s->sites + op->site] != 1.0;
        for (int64_t r = 0; r < rows; r++) {
            const REAL *k = keep + r * n, *y = k;
            REAL *restrict d = g + r * n;
            if (gamma) {
                if (beta) for (int64_t i = 0; i < n; i++) line[i] = k[i] * gamma[i] + beta[i];
                else for (int64_t i = 0; i < n; i++) line[i] = k[i] * gamma[i];
                y = line;
            }
            if (drops)
                FN(mask)(n, s->bits[j * s->sites + op->site] + r * n, s->threshold[j * s->sites + op->site],
                         (REAL)s->scale[j * s->sites + op->site], d);
            FN(derive)(op->act, n, (REAL)op->slope, y, d);
            if (dgamma) for (int64_t i = 0; i < n; i++) dgamma[i] += d[i] * k[i];
            if (dbeta) for (int64_t i = 0; i < n; i++) dbeta[i] += d[i];
            if (op->norm == LAYER_NORM) {
                REAL mean = 0, along = 0;
                if (gamma) for (int64_t i = 0; i < n; i++) d[i] *= gamma[i];
#pragma omp simd reduction(+ : mean, along)
                for (int64_t i = 0; i < n; i++) {
                    mean += d[i];
                    along += d[i] * k[i];
                }
                mean /= n;
                along /= n;
                for (int64_t i = 0; i < n; i++) d[i] = stats[r] * (d[i] - mean - k[i] * along);
            } else if (op->norm == BATCH_NORM) {
                for (int64_t i = 0; i < n; i++) {
                    sum[i] += d[i];
                    product[i] += d[i] * k[i];
                }
            }
        }
        if (op->norm == BATCH_NORM) {
            for (int64_t i = 0; i < n; i++) {
                line[i] = stats[i] * (gamma ? gamma[i] : 1);
                sum[i] /= rows;
                product[i] /= rows;
            }
            for (int64_t r = 0; r < rows; r++)
                for (int64_t i = 0; i < n; i++)
                    g[r * n + i] = line[i] * (g[r * n + i] - sum[i] - keep[r * n + i] * product[i]);
        }
        if (into && into != g) FN(give)(op->to, rows * n, g, into);
    }
}

/* soft(w, t*l1)/(1 + t*l2) with the step t of each coordinate; 0 where no gradient has come yet. */
static void FN(shrink)(const Rule *rule, const Charge *c, int64_t n, const REAL *restrict v, REAL *restrict p) {
    REAL l1 = (REAL)c->l1, l2 = (REAL)c->l2;
    if (rule->kind == SGD) {
        double kept = rule->momentum != 0 ? 1 - rule->dampening : 1;
        REAL t = (REAL)(rule->lr * kept / (1 - rule->momentum)), a = t * l1, b = 1 / (1 + t * l2);
        for (int64_t i = 0; i < n; i++) {
            REAL size = (p[i] < 0 ? -p[i] : p[i]) - a;
            p[i] = size > 0 ? (p[i] < 0 ? -size : size) * b : size <= 0 ? 0 : p[i];
        }
        return;
    }
    REAL root = (REAL)(rule->kind == ADAM ? rule->root2 : 1), eps = (REAL)rule->eps * root;
    REAL scale = (REAL)(rule->ramp * rule->lr * (rule->kind == ADAM ? rule->root2 : 1 / (1 - rule->momentum)));
    for (int64_t i = 0; i < n; i++) {
        REAL t = v[i] > 0 ? scale / (FN(root)(v[i]) + eps) : 0;
        REAL size = (p[i] < 0 ? -p[i] : p[i]) - t * l1, moved = (p[i] < 0 ? -size : size) / (1 + t * l2);
        p[i] = size > 0 ? moved : size <= 0 ? 0 : p[i];
    }
}

/* A power of two near the largest of some numbers, so that their squares fit; 0 where all are 0 or one is not finite: such a
 * group has no minimizer and stays as it is, as in ops/norms.py. */
static inline double FN(scale)(const REAL *w, int64_t count, int64_t step) {
    REAL most = 0, sum = 0;
    for (int64_t i = 0; i < count; i++) {
        REAL size = w[i * step] < 0 ? -w[i * step] : w[i * step];
        most = size > most ? size : most;
        sum += w[i * step] * 0; /* no number, if one is not finite */
    }
    int exponent;
    frexp((double)most, &exponent);
    return sum == 0 && most > 0 ? ldexp(1.0, exponent - 1) : 0;
}

/* w_g *= min(1, bound/|w_g|), groups along the first or the second axis. */
static void FN(bound)(const Charge *c, int64_t n, int64_t rows, REAL *restrict p) {
    int64_t columns = n / rows;
    REAL bound = (REAL)c->bound;
    for (int64_t g = 0; g < (c->bound_axis == 0 ? rows : columns); g++) {
        REAL *w = c->bound_axis == 0 ? p + g * columns : p + g;
        int64_t count = c->bound_axis == 0 ? columns : rows, step = c->bound_axis == 0 ? 1 : columns;
        double scale = FN(scale)(w, count, step), square = 0;
        if (scale == 0) continue;
        for (int64_t i = 0; i < count; i++) square += (w[i * step] / scale) * (w[i * step] / scale);
        double norm = sqrt(square), most = bound / scale;
        if (norm > most)
            for (int64_t i = 0; i < count; i++) w[i * step] *= (REAL)(most / norm);
    }
}

/* argmin_u 1/2 sum (u-w)^2/t + strength * sum_g |u_g|_2, groups along the first or the second axis; line has room for two
 * groups. By Newton's method as in optim/kernels.py: with s_i = 1/(t_i*strength) a group is 0 where sum (w_i s_i)^2 <= 1, else
 * u_i = w_i s_i/(s_i + 1/r) with r = |u|. A coordinate that has had no gradient stays while its group lives. */
static void FN(group)(const Rule *rule, const Charge *c, int64_t n, int64_t rows, const REAL *v, REAL *p, REAL *line) {
    int64_t columns = n / rows, groups = c->group_axis == 0 ? rows : columns, count = n / groups;
    int64_t step = c->group_axis == 0 ? 1 : columns, next = c->group_axis == 0 ? columns : 1;
    double root = rule->kind == ADAM ? rule->root2 : 1, kept = rule->momentum != 0 ? 1 - rule->dampening : 1;
    double amount = rule->kind == SGD ? c->group * rule->lr * kept / (1 - rule->momentum)
                                      : c->group * rule->ramp * rule->lr * (rule->kind == ADAM ? root : 1 / (1 - rule->momentum));
    if (!(amount > 0)) return;
    REAL *restrict w = line, *restrict size = line + count, limit = sizeof(REAL) == 4 ? (REAL)4.8e-7 : (REAL)8.9e-16;
    for (int64_t g = 0; g < groups; g++) {
        REAL *at = p + g * next;
        const REAL *second = v + g * next;
        double scale = FN(scale)(at, count, step);
        if (scale == 0) continue;
        REAL square = 0, total = 0, less = (REAL)(amount / scale), unit = (REAL)scale, moves = 0;
        if (less == 0) continue;
        for (int64_t i = 0; i < count; i++) w[i] = at[i * step] / unit;
        if (rule->kind == SGD) {
#pragma omp simd reduction(+ : square)
            for (int64_t i = 0; i < count; i++) square += w[i] * w[i];
            REAL factor = 1 - less / FN(root)(square);
            for (int64_t i = 0; i < count; i++) at[i * step] = factor > 0 ? at[i * step] * factor : 0;
            continue;
        }
        for (int64_t i = 0; i < count; i++) { /* 0 marks what has had no gradient; an infinite size would share inf/inf */
            REAL whole = (FN(root)(second[i * step]) + (REAL)(rule->eps * root)) / less;
            size[i] = second[i * step] > 0 ? (whole < (REAL)1e30 ? whole : (REAL)1e30) : 0;
        }
#pragma omp simd reduction(+ : square, total, moves)
        for (int64_t i = 0; i < count; i++) {
            REAL m = size[i] > 0 ? w[i] : 0;
            square += m * m;
            total += m * size[i] * m * size[i];
            moves += m != 0;
        }
        if (moves == 0) continue;
        if (total <= 1) {
            for (int64_t i = 0; i < count; i++) at[i * step] = 0;
            continue;
        }
        REAL r = FN(root)(square);
        for (int k = 0; k < 64; k++) {
            REAL inverse = 1 / r, sum = 0, slope = 0;
#pragma omp simd reduction(+ : sum, slope)
            for (int64_t i = 0; i < count; i++) {
                REAL e = size[i] > 0 ? size[i] / (size[i] + inverse) : 0, u = w[i] * e;
                sum += u * u;
                slope += u * u * e;
            }
            REAL norm = FN(root)(sum), gap = norm - r;
            if ((gap < 0 ? -gap : gap) <= limit * r || !(r > 1e-30)) break;
            REAL newton = r + gap * (sum / slope);
            r = newton > 0 ? newton : norm / 16;
        }
        for (int64_t i = 0; i < count; i++)
            if (size[i] > 0) at[i * step] *= size[i] / (size[i] + 1 / r);
    }
}

/* a <- a + share (p - a), as torch's lerp rounds it; share 1 copies. `sparse`: where p is exactly 0, so is a. */
static void FN(mix)(int64_t n, REAL share, int sparse, const REAL *restrict p, REAL *restrict a) {
    if (share >= 1) {
        memcpy(a, p, n * sizeof(REAL));
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        REAL gap = p[i] - a[i], moved = share < (REAL)0.5 ? a[i] + share * gap : p[i] - gap * (1 - share);
        a[i] = sparse && p[i] == 0 ? 0 : moved;
    }
}

static void FN(update)(const Step *s, int64_t j, double norm, REAL *line) {
    const Rule *rule = s->rule + j;
    int64_t place = s->active[j];
    REAL clip = 1;
    if (rule->clip > 0 && rule->clip / (norm + 1e-6) < 1) clip = (REAL)(rule->clip / (norm + 1e-6));
    REAL lr = (REAL)rule->lr, b2 = (REAL)rule->beta2, eps = (REAL)rule->eps, coupled = (REAL)rule->coupled;
    REAL momentum = (REAL)rule->momentum, kept = (REAL)(1 - rule->dampening);
    for (int64_t l = 0; l < s->leaves; l++) {
        if (!s->moves[l]) continue;
        int64_t n = s->size[l], at = place * s->stride[l];
        REAL *restrict p = (REAL *)s->param[l] + at;
        const REAL *restrict grad = (const REAL *)s->grad[l] + at;
        REAL *restrict m = (REAL *)s->first[l] + at, *restrict v = (REAL *)s->second[l] + at;
        const Charge *c = s->charge + j * s->leaves + l;
        REAL decay = (REAL)(rule->decay * c->decay);
        if (rule->kind == ADAM) {
            REAL b1 = (REAL)(1 - rule->beta1), rate = (REAL)(rule->lr / rule->correction1), root = (REAL)(1 / rule->root2);
            for (int64_t i = 0; i < n; i++) {
                REAL w = p[i] * decay, g = grad[i] * clip + coupled * w;
                m[i] += b1 * (g - m[i]);
                v[i] = b2 * v[i] + (1 - b2) * g * g;
                p[i] = w - rate * m[i] / (FN(root)(v[i]) * root + eps);
            }
        } else if (rule->kind == RMSPROP) {
            for (int64_t i = 0; i < n; i++) {
                REAL w = p[i] * decay, g = grad[i] * clip + coupled * w;
                v[i] = b2 * v[i] + (1 - b2) * g * g;
                m[i] = momentum * m[i] + g / (FN(root)(v[i]) + eps);
                p[i] = w - lr * m[i];
            }
        } else {
            REAL old = rule->first != 0 ? 0 : momentum, new = rule->first != 0 ? 1 : kept;
            int nesterov = rule->nesterov != 0, plain = rule->momentum == 0;
            for (int64_t i = 0; i < n; i++) {
                REAL w = p[i] * decay, g = grad[i] * clip + coupled * w;
                REAL b = plain ? g : old * m[i] + new * g;
                m[i] = b;
                p[i] = w - lr * (nesterov ? g + momentum * b : b);
            }
        }
        if (c->l1 > 0 || c->l2 > 0) FN(shrink)(rule, c, n, v, p);
        if (c->group > 0) FN(group)(rule, c, n, s->rows[l], v, p, line);
        if (c->bound >= 0) FN(bound)(c, n, s->rows[l], p);
    }
    if (rule->average <= 0) return;
    REAL share = (REAL)rule->average;
    for (int64_t l = 0; l < s->leaves; l++) {
        int64_t at = place * s->stride[l];
        FN(mix)(s->size[l], share, s->charge[j * s->leaves + l].sparse != 0, (const REAL *)s->param[l] + at,
                (REAL *)s->average[l] + at);
    }
    for (int64_t b = 0; b < s->buffers; b++) {
        int64_t at = place * s->buffer_stride[b];
        FN(mix)(s->buffer_size[b], rule->buffers != 0 ? share : 1, 0, (const REAL *)s->buffer[b] + at,
                (REAL *)s->average_buffer[b] + at);
    }
}

static double FN(gradient_norm)(const Step *s, int64_t j) {
    double total = 0;
    for (int64_t l = 0; l < s->leaves; l++) {
        const REAL *g = (const REAL *)s->grad[l] + s->active[j] * s->stride[l];
        REAL sum = 0;
        if (!s->moves[l]) continue;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < s->size[l]; i++) sum += g[i] * g[i];
        total += sum;
    }
    return sqrt(total);
}

/* noisy = w + radius * a^2 g/|a g| with a = 1, or |w| + eta where adaptive; w itself where the gradient is zero or not finite. */
static void FN(ascend)(const Step *s, int64_t j) {
    const Rule *rule = s->rule + j;
    double square = 0;
    for (int64_t l = 0; l < s->leaves; l++) {
        int64_t at = s->active[j] * s->stride[l];
        const REAL *p = (const REAL *)s->param[l] + at, *g = (const REAL *)s->grad[l] + at;
        if (!s->moves[l]) continue;
        for (int64_t i = 0; i < s->size[l]; i++) {
            double d = rule->adaptive != 0 ? (fabs((double)p[i]) + rule->eta) * g[i] : g[i];
            square += d * d;
        }
    }
    double scale = square > 0 && isfinite(square) ? rule->radius / sqrt(square) : 0;
    for (int64_t l = 0; l < s->leaves; l++) {
        int64_t at = s->active[j] * s->stride[l];
        const REAL *p = (const REAL *)s->param[l] + at, *g = (const REAL *)s->grad[l] + at;
        REAL *into = (REAL *)s->noisy[l] + at;
        for (int64_t i = 0; i < s->size[l]; i++) {
            double a = rule->adaptive != 0 ? fabs((double)p[i]) + rule->eta : 1;
            into[i] = scale > 0 && s->moves[l] ? p[i] + (REAL)(scale * a * a * g[i]) : p[i];
        }
    }
}

/* Forward, loss, backward, and the update of a slot that has a rule and a finite cost. */
static void FN(step_one)(const void *given, int64_t j, int64_t thread) {
    const Step *s = given;
    REAL *w = (REAL *)s->workspace + s->workspace_size * thread;
    int before = s->blas_threads(1);
    FN(forward)(s, j, w, 1);
    s->cost[j] = FN(loss)(s, j, w + s->value[s->output], w + s->gradient[s->output]);
    FN(backward)(s, j, w);
    if (s->rule[j].radius > 0) { /* the same rows with the same noise again, where the loss nearby is worst */
        FN(ascend)(s, j);
        s->source[j] = 2;
        FN(forward)(s, j, w, 0);
        FN(loss)(s, j, w + s->value[s->output], w + s->gradient[s->output]);
        FN(backward)(s, j, w);
        s->source[j] = 0;
    }
    s->norm[j] = FN(gradient_norm)(s, j);
    if (s->rule[j].kind != NO_UPDATE && isfinite(s->cost[j])) FN(update)(s, j, s->norm[j], w + s->scratch);
    s->blas_threads(before);
}

/* All steps of a slot, until its cost is not finite. */
static void FN(steps_one)(const void *given, int64_t j, int64_t thread) {
    const Step *s = given;
    for (int64_t t = 0; t < s->steps && (t == 0 || isfinite(s[t - 1].cost[j])); t++) FN(step_one)(s + t, j, thread);
}

void FN(wp_step)(const Step *s) { share(s->count, s->threads, FN(steps_one), s); }

/* The outputs of a slot in evaluation mode. */
static void FN(outputs_one)(const void *given, int64_t j, int64_t thread) {
    const Step *s = given;
    REAL *w = (REAL *)s->workspace + s->workspace_size * thread;
    int before = s->blas_threads(1);
    FN(forward)(s, j, w, 0);
    memcpy((REAL *)s->out + j * s->batch * s->outputs, w + s->value[s->output], s->batch * s->outputs * sizeof(REAL));
    s->blas_threads(before);
}

void FN(wp_outputs)(const Step *s) { share(s->count, s->threads, FN(outputs_one), s); }
