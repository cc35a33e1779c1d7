/* Conv for onnxruntime's graphs of CPUs with AVX-512: fp32 convolutions whose channels lie in blocks of 16 (com.microsoft.nchwc).
 *
 * onnxruntime's own are near what the CPU can multiply. Here there is less to multiply: for windows of 3x3, the products of 2x2
 * pixels' outputs are found with 16 multiplications in place of 36 (Winograd: Lavin and Gray, Fast algorithms for convolutional
 * neural networks, 2016), and on maps of 2x2 pixels with 9, by Karatsuba's rule. An output's error is then one of the largest products of
 * its square, and not of its own alone: some 1e-6 of the largest output. All pictures of a batch are the rows of one product, so weights
 * are read once for many of them.
 *
 * A convolution that it does not take fails when the graph is opened: one in groups, over lines, with weights that are no constants,
 * with another activation than Relu, maps or channels that fill no blocks, pads that are not given in numbers, gaps between the columns
 * that it sees of a picture of few channels, or too large a window.
 */
#include <immintrin.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "operators.h"

enum {
    BLOCK = 16,            /* channels that lie side by side, and numbers in a register */
    PANEL = 2 * BLOCK,     /* maps that are summed up side by side */
    GROUP = 14,            /* rows that are: 28 sums, 2 weights and a factor fill the registers */
    DEPTH = 512,           /* of a row's factors at a time: their weights for a panel, 64 kB, stay in the second cache for all rows */
    ROWS = 256,            /* at a time at most */
    ROOM = 160 * 1024,     /* numbers: factors of those rows, which stay in the second cache */
    MOST_SEGMENTS = 1024,
    SQUARES_ROOM = 96 * 1024,                        /* numbers: factors and sums of squares at a time */
    FAST_CHANNELS = 32,                              /* with fewer, finding the factors takes what fewer multiplications save */
    MOST_FAST_CHANNELS = SQUARES_ROOM / 16 / 7 - PANEL /* so that weights are read for 7 squares at least */
};

enum { X, W, BIAS, SUM, INPUTS };
enum { WINOGRAD, CORNERS, SCHEMES };

/* The 4x4 pixels that four windows see: the first one's place, numbers between lines and between blocks of channels, and which of them
 * are in the picture. */
typedef struct {
    const float *corner;
    int64_t line, block;
    __mmask16 inside[4][4];
} Square;

/* How the products of a 3x3 window's outputs are found: all pixels one by one, or fewer of another kind for small squares of them. */
typedef struct {
    int points; /* how many multiplications there are for a square of 2x2 outputs */
    void (*weights)(const float *window, int64_t stride, float *points);
    void (*factors)(const Square *square, int64_t channels, float *to, int64_t stride, int64_t apart);
    void (*outputs)(const float *products, int64_t stride, __m512 *square);
} Scheme;

/* One convolution, ready to run. Any number of threads may run it. */
typedef struct {
    const OrtApi *api;
    size_t inputs;
    int64_t maps, channels, kernel[2], strides[2], gaps[2], pads[4]; /* rows before columns; pads: top, left, bottom, right */
    int64_t depth;        /* factors of an output */
    int blocked, relu;    /* whether the input's channels lie in blocks */
    const float *weights; /* onnxruntime's: blocks of maps, blocks of channels, rows, columns, 16 channels, 16 maps */
    int fast;             /* whether its windows are of 3x3, one beside the other */
    _Atomic(float *) transformed[SCHEMES]; /* weights for them, once they were needed */
} Convolution;

/* For each thread that convolves, from its first convolution to its end. */
static _Thread_local float factors[ROOM] __attribute__((aligned(64)));
static _Thread_local float sums[SQUARES_ROOM] __attribute__((aligned(64)));
static _Thread_local int64_t places[MOST_SEGMENTS];

/* --- Products ---------------------------------------------------------------------------------------------------------------- */

/* Rows whose factors lie `stride` numbers apart, in segments of `length` side by side, at `at`; times weights of one or two blocks of
 * maps; into, or on top of, sums that lie PANEL apart. */
typedef struct {
    const float *rows;
    int64_t stride, segments, length;
    const int64_t *at;
    const float *weights[2];
    float *sums;
    int more;
    float *y; /* where the outputs go, maps `apart` those before them, if they go anywhere yet */
    const float *bias, *sum;
    int64_t apart;
    int relu;
} Product;

static inline __attribute__((always_inline)) void multiply(const Product *p, const int rows, const int blocks, int64_t stride,
                                                           int64_t length) {
#define START(row)                                                                                                      \
    __m512 left##row = row < rows && p->more ? _mm512_load_ps(p->sums + row * PANEL) : _mm512_setzero_ps();             \
    __m512 right##row = row < rows && blocks > 1 && p->more ? _mm512_load_ps(p->sums + row * PANEL + BLOCK) : _mm512_setzero_ps();
#define ADD(row)                                                             \
    if (row < rows) {                                                        \
        __m512 each = _mm512_set1_ps(factor[row * stride]);                  \
        left##row = _mm512_fmadd_ps(each, left, left##row);                  \
        if (blocks > 1) right##row = _mm512_fmadd_ps(each, right, right##row); \
    }
#define KEEP(row)                                                                           \
    if (row < rows) {                                                                       \
        _mm512_store_ps(p->sums + row * PANEL, left##row);                                  \
        if (blocks > 1) _mm512_store_ps(p->sums + row * PANEL + BLOCK, right##row);         \
    }
#define WRITE(row, block, total)                                                                                   \
    if (row < rows) {                                                                                              \
        total = _mm512_add_ps(total, bias);                                                                        \
        if (p->sum) total = _mm512_add_ps(total, _mm512_loadu_ps(p->sum + block * p->apart + row * BLOCK));        \
        _mm512_storeu_ps(p->y + block * p->apart + row * BLOCK, _mm512_max_ps(least, total));                      \
    }
#define WRITE_LEFT(row) WRITE(row, 0, left##row)
#define WRITE_RIGHT(row) WRITE(row, 1, right##row)
    const float *first = p->weights[0], *second = p->weights[1];
    EACH_ROW(START)
    for (int64_t segment = 0; segment < p->segments; segment++) {
        const float *factor = p->rows + p->at[segment];
        for (int64_t i = 0; i < length; i++, factor++, first += BLOCK, second += BLOCK) {
            __m512 left = _mm512_loadu_ps(first), right = blocks > 1 ? _mm512_loadu_ps(second) : left;
            EACH_ROW(ADD)
        }
    }
    if (!p->y) {
        EACH_ROW(KEEP)
        return;
    }
    __m512 least = _mm512_set1_ps(p->relu ? 0 : -INFINITY), bias = p->bias ? _mm512_loadu_ps(p->bias) : _mm512_setzero_ps();
    EACH_ROW(WRITE_LEFT)
    if (blocks > 1) {
        if (p->bias) bias = _mm512_loadu_ps(p->bias + BLOCK);
        EACH_ROW(WRITE_RIGHT)
    }
#undef START
#undef ADD
#undef KEEP
#undef WRITE
#undef WRITE_LEFT
#undef WRITE_RIGHT
}

#define OF_ROWS(rows)                                                                              \
    static void multiply_##rows(const Product *p) {                                                \
        if (p->stride != BLOCK || p->length != BLOCK) multiply(p, rows, 2, p->stride, p->length); \
        else multiply(p, rows, 2, BLOCK, BLOCK);                                                   \
    }                                                                                              \
    static void multiply_half_##rows(const Product *p) { multiply(p, rows, 1, p->stride, p->length); }
OF_ROWS(1) OF_ROWS(2) OF_ROWS(3) OF_ROWS(4) OF_ROWS(5) OF_ROWS(6) OF_ROWS(7)
OF_ROWS(8) OF_ROWS(9) OF_ROWS(10) OF_ROWS(11) OF_ROWS(12) OF_ROWS(13) OF_ROWS(14)

static void (*const MULTIPLY[2][GROUP])(const Product *) = {
    {multiply_half_1, multiply_half_2, multiply_half_3, multiply_half_4, multiply_half_5, multiply_half_6, multiply_half_7,
     multiply_half_8, multiply_half_9, multiply_half_10, multiply_half_11, multiply_half_12, multiply_half_13, multiply_half_14},
    {multiply_1, multiply_2, multiply_3, multiply_4, multiply_5, multiply_6, multiply_7, multiply_8, multiply_9, multiply_10,
     multiply_11, multiply_12, multiply_13, multiply_14}};

typedef struct {
    int64_t pictures, rows, columns, down, right; /* of the input and the output */
    const float *x, *bias, *sum; /* the last two, or NULL */
    float *y;
} Pictures;

/* A pixel's 16 outputs of the maps from `map` on, at `to` of the output. */
static inline void finish(const Convolution *c, const Pictures *on, __m512 sum, int64_t map, int64_t to) {
    if (on->bias) sum = _mm512_add_ps(sum, _mm512_loadu_ps(on->bias + map));
    if (on->sum) sum = _mm512_add_ps(sum, _mm512_loadu_ps(on->sum + to));
    _mm512_storeu_ps(on->y + to, c->relu ? _mm512_max_ps(_mm512_setzero_ps(), sum) : sum);
}

/* Where the sums of some pixels go: maps from `map` on, pixels from the `first` of all pictures' on. */
typedef struct {
    const Convolution *c;
    const Pictures *on;
    int64_t map, first;
} Destination;

/* Whether all of the pixels are one picture's: then their outputs lie side by side, and can go there as they come. */
static int go_to(Product *p, const Destination *to, int64_t row, int64_t count) {
    int64_t area = to->on->down * to->on->right, picture = (to->first + row) / area, place = (to->first + row) % area;
    p->y = NULL;
    if (place + count > area) return 0;
    int64_t start = (picture * to->c->maps + to->map) * area + place * BLOCK;
    p->y = to->on->y + start, p->apart = area * BLOCK, p->relu = to->c->relu;
    p->bias = to->on->bias ? to->on->bias + to->map : NULL, p->sum = to->on->sum ? to->on->sum + start : NULL;
    return 1;
}

static void finish_rows(const Destination *to, const float *sum, int64_t row, int64_t count, int blocks) {
    int64_t area = to->on->down * to->on->right, picture = (to->first + row) / area, place = (to->first + row) % area;
    for (; count > 0; count--, sum += PANEL) {
        int64_t start = (picture * to->c->maps + to->map) * area + place * BLOCK;
        finish(to->c, to->on, _mm512_load_ps(sum), to->map, start);
        if (blocks > 1) finish(to->c, to->on, _mm512_load_ps(sum + BLOCK), to->map + BLOCK, start + area * BLOCK);
        if (++place == area) place = 0, picture++;
    }
}

/* Any number of rows, in groups as equal as can be, for two blocks of maps or one; their weights lie `apart`. Sums that go nowhere
 * yet, and those that need more than one turn, are kept side by side. */
static void product(Product p, int64_t rows, int64_t apart, int blocks, const Destination *to) {
    const Product all = p;
    int64_t most = p.length < DEPTH ? DEPTH / p.length : 1, groups = (rows + GROUP - 1) / GROUP;
    for (int64_t done = 0; done < all.segments; done += most) {
        int is_last = all.segments - done <= most;
        p.segments = is_last ? all.segments - done : most, p.at = all.at + done, p.more = done > 0;
        p.weights[0] = all.weights[0] + done * p.length * BLOCK, p.weights[1] = p.weights[0] + (blocks > 1 ? apart : 0);
        for (int64_t group = 0, row = 0, count; group < groups; group++, row += count) {
            count = (rows - row) / (groups - group);
            p.rows = all.rows + row * p.stride, p.sums = all.sums + row * PANEL;
            int is_written = to && is_last && go_to(&p, to, row, count);
            MULTIPLY[blocks - 1][count - 1](&p);
            if (to && is_last && !is_written) finish_rows(to, p.sums, row, count, blocks);
        }
    }
}

/* --- One by one -------------------------------------------------------------------------------------------------------------- */

/* All maps of `count` pixels from the `first` of all pictures' on. */
static void convolve_rows(const Convolution *c, const Pictures *on, Product p, int64_t first, int64_t count) {
    int64_t apart = c->depth * BLOCK;
    p.sums = sums, p.segments = c->depth / p.length, p.at = places;
    for (int64_t map = 0; map < c->maps; map += PANEL) {
        Destination to = {c, on, map, first};
        p.weights[0] = c->weights + map / BLOCK * apart;
        product(p, count, apart, c->maps - map > BLOCK ? 2 : 1, &to);
    }
}

/* What a window sees, in the order of its weights. */
static void look_through(const Convolution *c, const Pictures *on, int64_t pixel, float *to, int64_t apart) {
    int64_t area = on->down * on->right, picture = pixel / area, place = pixel % area;
    int64_t top = place / on->right * c->strides[0] - c->pads[0], left = place % on->right * c->strides[1] - c->pads[1];
    const float *block = on->x + picture * c->channels * on->rows * on->columns;
    for (int64_t channel = 0; channel < c->channels; channel += BLOCK, block += on->rows * on->columns * BLOCK)
        for (int64_t y = 0; y < c->kernel[0]; y++) {
            int64_t row = top + y * c->gaps[0];
            for (int64_t x = 0; x < c->kernel[1]; x++, to += apart) {
                int64_t column = left + x * c->gaps[1];
                int inside = row >= 0 && row < on->rows && column >= 0 && column < on->columns;
                _mm512_store_ps(to, inside ? _mm512_loadu_ps(block + (row * on->columns + column) * BLOCK) : _mm512_setzero_ps());
            }
        }
}

static int sees_one_pixel(const Convolution *c) {
    return c->kernel[0] * c->kernel[1] == 1 && c->strides[0] * c->strides[1] == 1 &&
           !(c->pads[0] | c->pads[1] | c->pads[2] | c->pads[3]);
}

static void convolve(const Convolution *c, const Pictures *on) {
    int64_t area = on->down * on->right, pixels = on->pictures * area, segments = c->depth / BLOCK, most = ROOM / c->depth;
    if (most > ROWS) most = ROWS;
    Product p = {.rows = factors, .stride = BLOCK, .length = BLOCK};
    if (sees_one_pixel(c) && area > 4 * GROUP) { /* pictures' rows are factors as they lie */
        for (int64_t segment = 0; segment < segments; segment++) places[segment] = segment * area * BLOCK;
        for (int64_t pixel = 0, count; pixel < pixels; pixel += count) {
            count = area - pixel % area < most ? area - pixel % area : most;
            p.rows = on->x + pixel / area * c->channels * area + pixel % area * BLOCK;
            convolve_rows(c, on, p, pixel, count);
        }
        return;
    }
    for (int64_t pixel = 0, count; pixel < pixels; pixel += count) {
        count = pixels - pixel < most ? pixels - pixel : most;
        for (int64_t segment = 0; segment < segments; segment++) places[segment] = segment * count * BLOCK;
        for (int64_t i = 0; i < count; i++) look_through(c, on, pixel + i, factors + i * BLOCK, count * BLOCK);
        convolve_rows(c, on, p, pixel, count);
    }
}

/* A picture of few channels, which lie one after another: its own rows are the factors, once it has its pads. */
static OrtStatus *convolve_plain(const Convolution *c, const Pictures *on) {
    int64_t rows = on->rows + c->pads[0] + c->pads[2], columns = on->columns + c->pads[1] + c->pads[3];
    int64_t size = c->channels * rows * columns;
    float *padded = size <= ROOM ? factors : malloc((size_t)size * sizeof *padded);
    if (!padded) return failure(c->api, "Conv: no memory for a picture");
    memset(padded, 0, (size_t)size * sizeof *padded);
    for (int64_t channel = 0; channel < c->channels; channel++)
        for (int64_t y = 0; y < c->kernel[0]; y++)
            places[channel * c->kernel[0] + y] = ((channel * rows + y * c->gaps[0]) * columns);
    const float *x = on->x;
    for (int64_t picture = 0; picture < on->pictures; picture++) {
        for (int64_t channel = 0; channel < c->channels; channel++)
            for (int64_t row = 0; row < on->rows; row++, x += on->columns)
                memcpy(padded + (channel * rows + row + c->pads[0]) * columns + c->pads[1], x, (size_t)on->columns * sizeof *x);
        Product p = {.stride = c->strides[1], .length = c->kernel[1]};
        for (int64_t row = 0; row < on->down; row++)
            for (int64_t column = 0, count; column < on->right; column += count) {
                count = on->right - column < ROWS ? on->right - column : ROWS;
                p.rows = padded + row * c->strides[0] * columns + column * c->strides[1];
                convolve_rows(c, on, p, (picture * on->down + row) * on->right + column, count);
            }
    }
    if (padded != factors) free(padded);
    return NULL;
}

/* --- With fewer multiplications ---------------------------------------------------------------------------------------------- */

/* F(2x2, 3x3) of Lavin and Gray: four pixels in a line and three weights make two outputs with four multiplications. */
static void winograd_weights(const float *window, int64_t stride, float *points) {
    float half[4][3];
    for (int x = 0; x < 3; x++) {
        float a = window[x * stride], b = window[(3 + x) * stride], c = window[(6 + x) * stride];
        half[0][x] = a, half[1][x] = (a + b + c) / 2, half[2][x] = (a - b + c) / 2, half[3][x] = c;
    }
    for (int y = 0; y < 4; y++, points += 4) {
        float a = half[y][0], b = half[y][1], c = half[y][2];
        points[0] = a, points[1] = (a + b + c) / 2, points[2] = (a - b + c) / 2, points[3] = c;
    }
}

static inline __m512 pixel(const Square *square, const float *corner, int y, int x) {
    return _mm512_maskz_loadu_ps(square->inside[y][x], (const float *)((uintptr_t)corner + (uintptr_t)(y * square->line + x * BLOCK) * 4));
}

static void winograd_factors(const Square *square, int64_t channels, float *to, int64_t stride, int64_t apart) {
    const Square s = *square;
    const float *corner = s.corner;
    for (; channels > 0; channels -= BLOCK, to += apart, corner = (const float *)((uintptr_t)corner + (uintptr_t)s.block * 4)) {
        __m512 half[4][4];
#pragma GCC unroll 4
        for (int x = 0; x < 4; x++) {
            __m512 a = pixel(&s, corner, 0, x), b = pixel(&s, corner, 1, x), c = pixel(&s, corner, 2, x), d = pixel(&s, corner, 3, x);
            half[0][x] = _mm512_sub_ps(a, c), half[1][x] = _mm512_add_ps(b, c);
            half[2][x] = _mm512_sub_ps(c, b), half[3][x] = _mm512_sub_ps(b, d);
        }
        float *point = to;
#pragma GCC unroll 4
        for (int y = 0; y < 4; y++, point += 4 * stride) {
            __m512 a = half[y][0], b = half[y][1], c = half[y][2], d = half[y][3];
            _mm512_store_ps(point, _mm512_sub_ps(a, c)), _mm512_store_ps(point + stride, _mm512_add_ps(b, c));
            _mm512_store_ps(point + 2 * stride, _mm512_sub_ps(c, b)), _mm512_store_ps(point + 3 * stride, _mm512_sub_ps(b, d));
        }
    }
}

static void winograd_outputs(const float *products, int64_t stride, __m512 *square) {
    __m512 half[2][4];
#pragma GCC unroll 4
    for (int x = 0; x < 4; x++) {
        __m512 a = _mm512_load_ps(products + x * stride), b = _mm512_load_ps(products + (4 + x) * stride);
        __m512 c = _mm512_load_ps(products + (8 + x) * stride), d = _mm512_load_ps(products + (12 + x) * stride);
        half[0][x] = _mm512_add_ps(_mm512_add_ps(a, b), c), half[1][x] = _mm512_sub_ps(_mm512_sub_ps(b, c), d);
    }
#pragma GCC unroll 2
    for (int y = 0; y < 2; y++) {
        square[2 * y] = _mm512_add_ps(_mm512_add_ps(half[y][0], half[y][1]), half[y][2]);
        square[2 * y + 1] = _mm512_sub_ps(_mm512_sub_ps(half[y][1], half[y][2]), half[y][3]);
    }
}

/* Two pixels in a line with nothing around them: b x0 + c x1 and a x0 + b x1 share b (x0 + x1). */
static void corner_weights(const float *window, int64_t stride, float *points) {
    float half[3][3];
    for (int x = 0; x < 3; x++) {
        float a = window[x * stride], b = window[(3 + x) * stride], c = window[(6 + x) * stride];
        half[0][x] = a - b, half[1][x] = b, half[2][x] = c - b;
    }
    for (int y = 0; y < 3; y++, points += 3) {
        float a = half[y][0], b = half[y][1], c = half[y][2];
        points[0] = a - b, points[1] = b, points[2] = c - b;
    }
}

static void corner_factors(const Square *square, int64_t channels, float *to, int64_t stride, int64_t apart) {
    const float *first = (const float *)((uintptr_t)square->corner + (uintptr_t)(square->line + BLOCK) * 4); /* the others are outside */
    for (; channels > 0; channels -= BLOCK, to += apart, first += square->block) {
        __m512 a = _mm512_loadu_ps(first), b = _mm512_loadu_ps(first + BLOCK);
        __m512 c = _mm512_loadu_ps(first + 2 * BLOCK), d = _mm512_loadu_ps(first + 3 * BLOCK);
        __m512 half[3][2] = {{a, b}, {_mm512_add_ps(a, c), _mm512_add_ps(b, d)}, {c, d}};
        float *point = to;
#pragma GCC unroll 3
        for (int y = 0; y < 3; y++, point += 3 * stride) {
            _mm512_store_ps(point, half[y][0]), _mm512_store_ps(point + stride, _mm512_add_ps(half[y][0], half[y][1]));
            _mm512_store_ps(point + 2 * stride, half[y][1]);
        }
    }
}

static void corner_outputs(const float *products, int64_t stride, __m512 *square) {
    __m512 half[2][3];
#pragma GCC unroll 3
    for (int x = 0; x < 3; x++) {
        __m512 shared = _mm512_load_ps(products + (3 + x) * stride);
        half[0][x] = _mm512_add_ps(shared, _mm512_load_ps(products + (6 + x) * stride));
        half[1][x] = _mm512_add_ps(shared, _mm512_load_ps(products + x * stride));
    }
#pragma GCC unroll 2
    for (int y = 0; y < 2; y++) {
        square[2 * y] = _mm512_add_ps(half[y][1], half[y][2]);
        square[2 * y + 1] = _mm512_add_ps(half[y][1], half[y][0]);
    }
}

static const Scheme BY_NUMBER[SCHEMES] = {{16, winograd_weights, winograd_factors, winograd_outputs},
                                          {9, corner_weights, corner_factors, corner_outputs}};

static float *transformed(const Convolution *c, const Scheme *scheme) {
    float *found = aligned_alloc(64, (size_t)(scheme->points * c->maps * c->channels) * sizeof *found), points[16];
    if (!found) return NULL;
    for (int64_t block = 0; block < c->maps; block += BLOCK)
        for (int64_t channel = 0; channel < c->channels; channel++) {
            const float *window = c->weights + block * c->depth + channel / BLOCK * 9 * BLOCK * BLOCK + channel % BLOCK * BLOCK;
            float *to = found + block * c->channels + channel * BLOCK;
            for (int map = 0; map < BLOCK; map++) {
                scheme->weights(window + map, BLOCK * BLOCK, points);
                for (int point = 0; point < scheme->points; point++) to[point * c->maps * c->channels + map] = points[point];
            }
        }
    return found;
}

/* The weights of a scheme: by point, block of maps, channel, 16 maps. NULL: there is no memory for them. */
static const float *weights_for(Convolution *c, int number) {
    static pthread_mutex_t making = PTHREAD_MUTEX_INITIALIZER;
    const Scheme *scheme = &BY_NUMBER[number];
    float *found = atomic_load(&c->transformed[number]);
    if (found) return found;
    pthread_mutex_lock(&making);
    if (!(found = atomic_load(&c->transformed[number])) && (found = transformed(c, scheme)))
        atomic_store(&c->transformed[number], found);
    pthread_mutex_unlock(&making);
    return found;
}

/* `count` squares of all pictures', from the `first` on. */
static void find_factors(const Convolution *c, const Pictures *on, const Scheme *scheme, int64_t first, int64_t count) {
    int64_t down = (on->down + 1) / 2, right = (on->right + 1) / 2;
    for (int64_t i = 0; i < count; i++) {
        int64_t picture = (first + i) / (down * right), place = (first + i) % (down * right);
        int64_t top = place / right * 2 - c->pads[0], left = place % right * 2 - c->pads[1];
        Square square = {.line = on->columns * BLOCK, .block = on->rows * on->columns * BLOCK};
        int64_t from = picture * c->channels * on->rows * on->columns + (top * on->columns + left) * BLOCK;
        square.corner = (const float *)((uintptr_t)on->x + (uintptr_t)from * 4);
        for (int y = 0; y < 4; y++)
            for (int x = 0; x < 4; x++) {
                int inside = top + y >= 0 && top + y < on->rows && left + x >= 0 && left + x < on->columns;
                square.inside[y][x] = inside ? 0xFFFF : 0;
            }
        scheme->factors(&square, c->channels, factors + i * BLOCK, count * c->channels, count * BLOCK);
    }
}

static void write_squares(const Convolution *c, const Pictures *on, const Scheme *scheme, int64_t first, int64_t count, int64_t map,
                          int blocks) {
    int64_t down = (on->down + 1) / 2, right = (on->right + 1) / 2;
    for (int64_t i = 0; i < count; i++) {
        int64_t picture = (first + i) / (down * right), place = (first + i) % (down * right);
        int64_t row = place / right * 2, column = place % right * 2;
        for (int block = 0; block < blocks; block++) {
            __m512 square[4];
            int64_t here = map + block * BLOCK, start = (picture * c->maps + here) * on->down * on->right;
            scheme->outputs(sums + i * PANEL + block * BLOCK, count * PANEL, square);
            for (int64_t y = 0; y < 2 && row + y < on->down; y++)
                for (int64_t x = 0; x < 2 && column + x < on->right; x++)
                    finish(c, on, square[2 * y + x], here, start + ((row + y) * on->right + column + x) * BLOCK);
        }
    }
}

static void convolve_squares(const Convolution *c, const Pictures *on, const Scheme *scheme, const float *weights) {
    int64_t squares = on->pictures * ((on->down + 1) / 2) * ((on->right + 1) / 2);
    int64_t most = SQUARES_ROOM / (scheme->points * (c->channels + PANEL));
    if (most > ROWS) most = ROWS;
    int64_t parts = (squares + most - 1) / most;
    for (int64_t first = 0, count; first < squares; first += count, parts--) {
        count = (squares - first) / parts;
        find_factors(c, on, scheme, first, count);
        for (int64_t channel = 0; channel < c->channels; channel += BLOCK) places[channel / BLOCK] = channel * count;
        for (int64_t map = 0; map < c->maps; map += PANEL) {
            int blocks = c->maps - map > BLOCK ? 2 : 1;
            for (int point = 0; point < scheme->points; point++) {
                Product p = {.rows = factors + point * count * c->channels, .stride = BLOCK, .segments = c->channels / BLOCK,
                             .length = BLOCK, .at = places, .sums = sums + point * count * PANEL,
                             .weights = {weights + (point * c->maps + map) * c->channels}};
                product(p, count, c->channels * BLOCK, blocks, NULL);
            }
            write_squares(c, on, scheme, first, count, map, blocks);
        }
    }
}

/* --- For onnxruntime --------------------------------------------------------------------------------------------------------- */

static void destroy(void *kernel) {
    Convolution *c = kernel;
    for (int scheme = 0; scheme < SCHEMES; scheme++) free(atomic_load(&c->transformed[scheme]));
    free(c);
}

static OrtStatus *read_graph(void *kernel, const OrtKernelInfo *info) {
    Convolution *c = kernel;
    const OrtApi *api = c->api;
    char activation[8];
    Tensor w;
    if (!read_windows(api, info, c->kernel, c->strides, c->gaps, c->pads))
        return failure(api, "Conv: expected one group, two dimensions, pads in numbers");
    int known = read_text(api, info, "activation", activation, sizeof activation);
    c->relu = known && !strcmp(activation, "Relu");
    if (!known || (!c->relu && *activation)) return failure(api, "Conv: expected no activation, or Relu");
    TRY(ORT(api, GetInputCount)(info, &c->inputs));
    if (c->inputs < BIAS || c->inputs > INPUTS) return failure(api, "Conv: expected 2 to 4 inputs");
    TRY(constant(api, info, W, &w));
    if (!fits(&w, c->kernel)) return failure(api, "Conv: expected weights of 4 dimensions, of the kernel's shape");
    c->maps = w.sizes[0], c->channels = w.sizes[1], c->depth = w.count / c->maps, c->weights = w.data;
    c->blocked = c->channels >= BLOCK;
    if (c->maps % BLOCK || (c->blocked && c->channels % BLOCK)) return failure(api, "Conv: expected channels in blocks of 16");
    if (!c->blocked && c->gaps[1] != 1) return failure(api, "Conv: expected no gaps in a window on a picture");
    if (c->depth > ROOM / GROUP || (c->blocked ? c->depth / BLOCK : c->channels * c->kernel[0]) > MOST_SEGMENTS)
        return failure(api, "Conv: a window is too large");
    c->fast = c->kernel[0] == 3 && c->kernel[1] == 3 && c->strides[0] * c->strides[1] * c->gaps[0] * c->gaps[1] == 1 &&
              c->channels >= FAST_CHANNELS && c->channels <= MOST_FAST_CHANNELS && c->maps >= FAST_CHANNELS;
    return NULL;
}

static OrtStatus *create(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **kernel) {
    (void)op;
    return make(sizeof(Convolution), api, info, read_graph, destroy, kernel);
}

/* What there is to add, if there is. */
static OrtStatus *added(const Convolution *c, OrtKernelContext *context, size_t index, int64_t count, const float **found) {
    const OrtValue *value = NULL;
    Tensor tensor;
    if (index < c->inputs) TRY(ORT(c->api, GetInput)(context, index, &value));
    if (!value) return NULL;
    TRY(look_at(c->api, value, &tensor));
    if (tensor.count != count) return failure(c->api, "Conv: expected one bias for each map, and a sum of the output's shape");
    *found = tensor.data;
    return NULL;
}

static OrtStatus *compute(void *kernel, OrtKernelContext *context) {
    Convolution *c = kernel;
    const OrtApi *api = c->api;
    const OrtValue *input;
    OrtValue *output;
    Tensor x;
    Pictures on = {0};
    TRY(ORT(api, GetInput)(context, X, &input));
    TRY(look_at(api, input, &x));
    if (x.rank != 4 || x.sizes[1] != c->channels) return failure(api, "Conv: expected pictures with as many channels as the weights");
    on.pictures = x.sizes[0], on.rows = x.sizes[2], on.columns = x.sizes[3], on.x = x.data;
    on.down = output_side(on.rows, c->pads[0] + c->pads[2], c->kernel[0], c->gaps[0], c->strides[0]);
    on.right = output_side(on.columns, c->pads[1] + c->pads[3], c->kernel[1], c->gaps[1], c->strides[1]);
    TRY(ORT(api, GetOutput)(context, 0, (int64_t[]){on.pictures, c->maps, on.down, on.right}, 4, &output));
    TRY(ORT(api, GetTensorMutableData)(output, (void **)&on.y));
    TRY(added(c, context, BIAS, c->maps, &on.bias));
    TRY(added(c, context, SUM, on.pictures * c->maps * on.down * on.right, &on.sum));
    if (!c->blocked) return convolve_plain(c, &on);
    if (c->fast) {
        int ringed = c->pads[0] == 1 && c->pads[1] == 1 && c->pads[2] == 1 && c->pads[3] == 1;
        int scheme = ringed && on.rows == 2 && on.columns == 2 ? CORNERS : WINOGRAD;
        const float *weights = weights_for(c, scheme);
        if (!weights) return failure(api, "Conv: no memory for the weights");
        convolve_squares(c, &on, &BY_NUMBER[scheme], weights);
    } else {
        convolve(c, &on);
    }
    return NULL;
}

static const char *name(const OrtCustomOp *op) { return (void)op, "Conv"; }
static size_t input_count(const OrtCustomOp *op) { return (void)op, INPUTS; }
static int number_type(const OrtCustomOp *op, size_t index) { return (void)op, (void)index, ORT_FLOAT; }
static int input_need(const OrtCustomOp *op, size_t index) { return (void)op, index < BIAS ? ORT_REQUIRED : ORT_OPTIONAL; }

static size_t in_place(int **inputs, int **outputs) {
    static int sum = SUM, output = 0;
    *inputs = &sum, *outputs = &output;
    return 1;
}
static void release(int *inputs, int *outputs) { (void)inputs, (void)outputs; }

static const OrtCustomOp OPERATOR = {
    COMMON_TO_OPERATORS, .name = name, .input_count = input_count, .input_type = number_type, .input_need = input_need,
    .output_type = number_type, .create = create, .compute = compute, .destroy = destroy, .in_place = in_place,
    .release_in_place = release};

OFFERED OrtStatus *RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base) {
    return offer((const OrtCustomOp *[]){&OPERATOR, NULL}, "com.microsoft.nchwc", options, base);
}
