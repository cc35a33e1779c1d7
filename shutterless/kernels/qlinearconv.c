/* QLinearConv for onnxruntime: int8 convolutions over pictures whose channels lie innermost (com.microsoft.QLinearConv, channels_last),
 * each bit as onnxruntime's own. What multiplies is in amx.h and vnni.h; each makes a library of its own.
 *
 * onnxruntime convolves picture by picture, pads as well, and rounds in a pass of its own. Here all pixels of all pictures of a batch are
 * the rows of one product of matrices, so weights are read once per batch; what a window sees outside of the picture is left out, where
 * that is less work; and sums are rounded while they are in the first cache.
 *
 * A convolution that it does not take fails when the graph is opened: one in groups or over lines, with signed pictures, weights that
 * are no constants or not around zero, pads that are not given in numbers, a bias without a name, or windows of more than 16 kB.
 */
#include <immintrin.h>
#include <stdlib.h>
#include <string.h>

#include "operators.h"

enum {
    TILE = 16,         /* maps of a register, and numbers of 32 bits in it */
    STEP = 64,         /* bytes of a register */
    PANEL = 2 * TILE,  /* maps that are summed up side by side */
    ROOM = 512 * 1024, /* bytes for windows, which stay in the second cache */
    MOST_WINDOW = ROOM / 32,
    ROWS = 4096,       /* windows at a time at most */
    MOST_PARTS = 16,   /* lines of a kernel of which parts are left out */
    MOST_STRETCHES = 2 * MOST_PARTS,
    ENTRIES = 16       /* kinds of windows at a time */
};

/* GROUP: pixels that are summed up side by side. GRAIN: so many at least are counted, and with AMX read, for any part of them. DEPTH: bytes
 * of a window that are multiplied at a time. */
#ifdef __AMX_INT8__
enum { GROUP = 2 * TILE, GRAIN = TILE, DEPTH = STEP };
#else
enum { GROUP = 14, GRAIN = 4, DEPTH = 4 }; /* with a factor and two registers of weights, the sums fill all 32 */
#endif

enum { X, X_SCALE, X_ZERO, W, W_SCALE, W_ZERO, Y_SCALE, Y_ZERO, BIAS, INPUTS };

/* One convolution, ready to run. Any number of threads may run it. */
typedef struct {
    const OrtApi *api;
    int64_t maps, channels, kernel[2], strides[2], gaps[2], pads[4]; /* rows before columns; pads: top, left, bottom, right */
    int64_t window, padded;  /* bytes of a window, and those rounded up to a multiple of DEPTH */
    int64_t panels;          /* of PANEL maps each, the last one filled up with zeros */
    uint8_t x_zero, y_zero;
    int8_t *weights;         /* by panel, then as the unit takes them */
    int32_t *bias;           /* of each map, with what x_zero adds to its sums taken off */
    int32_t *zeros;          /* what it adds to each map's sums at each place of the kernel */
    float *scale;            /* of each map's sums, in steps of the output */
} Convolution;

/* For each thread that convolves, from its first convolution to its end. */
static _Thread_local uint8_t windows[ROOM] __attribute__((aligned(STEP)));
static _Thread_local int64_t places[ROWS];

/* Places of an output's side, beside each other, whose windows have the same part of the kernel in the picture: `from` to `to`. */
typedef struct {
    int64_t first, end, from, to;
} Stretch;

/* Bytes that lie together in each row, and where they lay in a whole window. */
typedef struct {
    int64_t at, length;
} Part;

/* Windows, or the parts of them that are in the picture, and where each one's outputs go. */
typedef struct {
    const uint8_t *rows;
    int64_t offset, stride, count; /* offset: of rows in `windows`, if they lie there */
    Part parts[MOST_PARTS];
    int parts_count;
    Stretch down, across;
    int64_t *places;
} Rows;

/* What is convolved at a time, so that weights are read once for all of it: as much as there is room for. */
typedef struct {
    Rows rows[ENTRIES];
    int count;
} Work;

/* Sums -> bytes of the output: to the nearest, ties to even, as _mm_cvtps_epi32 does for onnxruntime. */
typedef struct {
    __m512 scale, most;
    __m512i bias;
} Rounding;

static Rounding rounding_of(const Convolution *c, const Rows *r, int64_t map) {
    __m512i bias = _mm512_load_si512(c->bias + map);
    for (int64_t y = 0; y < c->kernel[0]; y++)
        for (int64_t x = 0; x < c->kernel[1]; x++) /* what is left out adds nothing */
            if (y < r->down.from || y >= r->down.to || x < r->across.from || x >= r->across.to)
                bias = _mm512_add_epi32(bias, _mm512_load_si512(c->zeros + (y * c->kernel[1] + x) * c->panels * PANEL + map));
    return (Rounding){.scale = _mm512_load_ps(c->scale + map), .bias = bias, .most = _mm512_set1_ps(255)};
}

static inline __m512i rounded(const int32_t *sums, const Rounding *r) {
    __m512 exact = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_load_si512(sums), r->bias)), r->scale);
    return _mm512_cvtps_epi32(_mm512_min_ps(r->most, exact)); /* the least of them, and no numbers, stay so: packing makes zeros of them */
}

/* Of up to GROUP pixels, for PANEL maps. */
typedef struct {
    int32_t of[GROUP][PANEL] __attribute__((aligned(STEP)));
} Sums;

/* 32 maps' sums -> 16 bits each, by lanes: four of the left half, four of the right one. */
static inline __m512i narrowed(const int32_t *sums, const Rounding halves[2], __m512i zero) {
    return _mm512_adds_epi16(_mm512_packs_epi32(rounded(sums, &halves[0]), rounded(sums + TILE, &halves[1])), zero);
}

/* The sums of `count` rows from `row` on, for the maps from `map` on. Two rows at a time. */
static inline void write_rounded(const Convolution *c, const Rows *r, const Sums *sums, int64_t row, int64_t count,
                                 const Rounding halves[2], int64_t map, uint8_t *y) {
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m512i zero = _mm512_set1_epi16(c->y_zero);
    __mmask32 kept = _cvtu32_mask32(~0u >> (c->maps - map < PANEL ? PANEL - (c->maps - map) : 0));
    const int64_t *to = r->places + row;
    y += map;
    for (int64_t pixel = 0; pixel < count; pixel += 2) {
        int64_t next = pixel + 1 < count ? pixel + 1 : pixel;
        __m512i both = _mm512_packus_epi16(narrowed(sums->of[pixel], halves, zero), narrowed(sums->of[next], halves, zero));
        both = _mm512_permutexvar_epi32(order, both);
        _mm256_mask_storeu_epi8(y + to[pixel], kept, _mm512_castsi512_si256(both));
        _mm256_mask_storeu_epi8(y + to[next], kept, _mm512_extracti64x4_epi64(both, 1));
    }
}

#ifdef __AMX_INT8__
#include "amx.h"
#else
#include "vnni.h"
#endif

/* --- Opening ----------------------------------------------------------------------------------------------------------------- */

static void destroy(void *kernel) {
    Convolution *c = kernel;
    free(c->weights);
    free(c->bias);
    free(c->zeros);
    free(c->scale);
    free(c);
}

/* onnxruntime's weights (maps, channels, rows, columns) into panels, and what x_zero adds to their sums. */
static void pack(Convolution *c, const int8_t *weights) {
    uint32_t area = (uint32_t)(c->kernel[0] * c->kernel[1]), channels = (uint32_t)c->channels;
    int64_t maps = c->panels * PANEL;
    for (int64_t map = 0; map < c->maps; map++) {
        int8_t *panel = c->weights + map / PANEL * PANEL * c->padded;
        for (uint32_t channel = 0; channel < channels; channel++)
            for (uint32_t place = 0; place < area; place++) {
                uint32_t byte = place * channels + channel; /* in a window */
                int8_t weight = *weights++;
                panel[place_of(map % PANEL, byte)] = weight;
                c->zeros[place * maps + map] += c->x_zero * weight;
            }
    }
}

/* Weights, bias and scales, out of constants that were looked at before. */
static OrtStatus *prepare(Convolution *c, const Tensor inputs[INPUTS]) {
    size_t maps = (size_t)c->panels * PANEL;
    c->weights = aligned_alloc(STEP, maps * (size_t)c->padded);
    c->bias = aligned_alloc(STEP, maps * sizeof *c->bias);
    c->scale = aligned_alloc(STEP, maps * sizeof *c->scale);
    size_t area = (size_t)(c->kernel[0] * c->kernel[1]);
    c->zeros = aligned_alloc(STEP, area * maps * sizeof *c->zeros);
    if (!c->weights || !c->bias || !c->scale || !c->zeros) return failure(c->api, "QLinearConv: no memory for the weights");
    memset(c->weights, 0, maps * (size_t)c->padded);
    memset(c->bias, 0, maps * sizeof *c->bias);
    memset(c->scale, 0, maps * sizeof *c->scale);
    memset(c->zeros, 0, area * maps * sizeof *c->zeros);
    c->x_zero = *(const uint8_t *)inputs[X_ZERO].data, c->y_zero = *(const uint8_t *)inputs[Y_ZERO].data;
    pack(c, inputs[W].data);
    float x_scale = *(const float *)inputs[X_SCALE].data, y_scale = *(const float *)inputs[Y_SCALE].data;
    const float *w_scale = inputs[W_SCALE].data;
    const int32_t *bias = inputs[BIAS].data;
    for (int64_t map = 0; map < c->maps; map++) {
        uint32_t sum = bias ? (uint32_t)bias[map] : 0;
        for (size_t place = 0; place < area; place++) sum -= (uint32_t)c->zeros[place * maps + (size_t)map];
        c->bias[map] = (int32_t)sum;
        c->scale[map] = x_scale * w_scale[inputs[W_SCALE].count == 1 ? 0 : map] / y_scale;
    }
    return NULL;
}

static OrtStatus *read_graph(void *kernel, const OrtKernelInfo *info) {
    Convolution *c = kernel;
    const OrtApi *api = c->api;
    Tensor inputs[INPUTS] = {{0}};
    size_t count;
    int64_t channels_last = 0;
    read_number(api, info, "channels_last", &channels_last);
    if (!read_windows(api, info, c->kernel, c->strides, c->gaps, c->pads) || !channels_last)
        return failure(api, "QLinearConv: expected one group, channels last, pads in numbers");
    TRY(ORT(api, GetInputCount)(info, &count));
    if (count < BIAS || count > INPUTS) return failure(api, "QLinearConv: expected 8 or 9 inputs");
    for (size_t i = X_SCALE; i < count; i++) TRY(constant(api, info, i, &inputs[i]));
    const Tensor *w = &inputs[W];
    if (!fits(w, c->kernel)) return failure(api, "QLinearConv: expected weights of 4 dimensions, of the kernel's shape");
    c->maps = w->sizes[0], c->channels = w->sizes[1];
    c->window = w->count / c->maps, c->padded = (c->window + DEPTH - 1) / DEPTH * DEPTH, c->panels = (c->maps + PANEL - 1) / PANEL;
    if (c->padded > MOST_WINDOW) return failure(api, "QLinearConv: a window is too large");
    for (size_t i = X_SCALE; i < count; i++) {
        int single = inputs[i].count == 1 && i != BIAS, by_map = inputs[i].count == c->maps && (i == W_SCALE || i == W_ZERO || i == BIAS);
        if (i != W && !single && !by_map) return failure(api, "QLinearConv: expected one number, or one for each map");
    }
    for (int64_t i = 0; i < inputs[W_ZERO].count; i++)
        if (((const int8_t *)inputs[W_ZERO].data)[i]) return failure(api, "QLinearConv: expected weights around zero");
    return prepare(c, inputs);
}

static OrtStatus *create(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **kernel) {
    (void)op;
    return make(sizeof(Convolution), api, info, read_graph, destroy, kernel);
}

/* --- Running ----------------------------------------------------------------------------------------------------------------- */

static inline __mmask64 mask_of(int64_t count) { return _cvtu64_mask64(~0ull >> (64 - count)); } /* of 1 to 64 */

static inline void copy(uint8_t *to, const uint8_t *from, int64_t bytes) {
    for (; bytes >= 64; bytes -= 64, to += 64, from += 64) _mm512_storeu_si512(to, _mm512_loadu_si512(from));
    if (bytes) _mm512_mask_storeu_epi8(to, mask_of(bytes), _mm512_maskz_loadu_epi8(mask_of(bytes), from));
}

static inline void fill(uint8_t *to, uint8_t value, int64_t bytes) {
    __m512i all = _mm512_set1_epi8((char)value);
    for (; bytes >= 64; bytes -= 64, to += 64) _mm512_storeu_si512(to, all);
    if (bytes) _mm512_mask_storeu_epi8(to, mask_of(bytes), all);
}

/* What of a window is asked for that starts at `top` and `left` of a picture of `rows` times `columns`; around it lies x_zero. */
static void look_through(const Convolution *c, const uint8_t *picture, int64_t rows, int64_t columns, int64_t top, int64_t left,
                         const Rows *r, uint8_t *window) {
    int64_t channels = c->channels, gap = c->gaps[1], width = r->across.to - r->across.from, bytes = width * channels;
    left += r->across.from * gap;
    if (gap == 1 && c->gaps[0] == 1 && bytes <= 64 && left >= 0 && left + width <= columns && top + r->down.from >= 0 &&
        top + r->down.to <= rows) { /* as most of them, where pictures are large and channels few */
        const uint8_t *from = picture + ((top + r->down.from) * columns + left) * channels;
        __mmask64 mask = bytes ? mask_of(bytes) : 0;
        for (int64_t y = r->down.from; y < r->down.to; y++, window += bytes, from += columns * channels)
            _mm512_mask_storeu_epi8(window, mask, _mm512_maskz_loadu_epi8(mask, from));
        return;
    }
    for (int64_t y = r->down.from; y < r->down.to; y++, window += width * channels) {
        int64_t row = top + y * c->gaps[0];
        if (row < 0 || row >= rows) {
            fill(window, c->x_zero, width * channels);
            continue;
        }
        const uint8_t *line = picture + row * columns * channels;
        if (gap == 1 && left >= 0 && left + width <= columns) {
            copy(window, line + left * channels, width * channels);
        } else {
            for (int64_t x = 0; x < width; x++) {
                int64_t column = left + x * gap;
                if (column < 0 || column >= columns)
                    fill(window + x * channels, c->x_zero, channels);
                else
                    copy(window + x * channels, line + column * channels, channels);
            }
        }
    }
}

static void convolve(const Convolution *c, Work *work, uint8_t *y) {
    for (int64_t map = 0; map < c->maps; map += PANEL)
        for (int i = 0; i < work->count; i++) convolve_panel(c, &work->rows[i], map, i > 0, y);
    work->count = 0;
}

static int sees_one_pixel(const Convolution *c) {
    return c->window == c->channels && c->padded == c->window && c->strides[0] == 1 && c->strides[1] == 1 &&
           !(c->pads[0] | c->pads[1] | c->pads[2] | c->pads[3]);
}

/* The stretches of an output's side, at most MOST_STRETCHES; or one that leaves out nothing, where there were more. */
static int stretches_of(const Convolution *c, int axis, int64_t side, int64_t end, Stretch *found) {
    int count = 0;
    for (int64_t place = 0; place < end; place++) {
        int64_t start = place * c->strides[axis] - c->pads[axis], gap = c->gaps[axis], kernel = c->kernel[axis];
        int64_t from = start < 0 ? (gap - 1 - start) / gap : 0, to = start < side ? (side - start + gap - 1) / gap : 0;
        if (to > kernel) to = kernel;
        if (from >= to) from = to = 0;
        if (!count || found[count - 1].from != from || found[count - 1].to != to) {
            if (count == MOST_STRETCHES) {
                found[0] = (Stretch){0, end, 0, kernel};
                return 1;
            }
            found[count++] = (Stretch){place, place, from, to};
        }
        found[count - 1].end = place + 1;
    }
    return count;
}

typedef struct {
    int64_t count, rows, columns, down, right; /* of the input and the output */
    const uint8_t *x;
    uint8_t *y;
} Pictures;

/* Where the next rows of the work go, and how many of them there is room for: none, or whole groups. */
static int64_t make_room(const Work *work, Rows *r) {
    int64_t used = 0, listed = 0;
    if (work->count) {
        const Rows *last = &work->rows[work->count - 1];
        used = last->offset + (last->count + GRAIN - 1) / GRAIN * GRAIN * last->stride; /* the last ones may be read */
        listed = last->places - places + last->count;
    }
    r->offset = used, r->rows = windows + used, r->places = places + listed, r->count = 0;
    int64_t most = ROWS - listed;
    if (r->stride && (ROOM - used) / r->stride < most) most = (ROOM - used) / r->stride;
    return work->count < ENTRIES && most > 0 ? most / GROUP * GROUP : 0;
}

/* All windows of two stretches, put to the work; what has no room any more is convolved before. */
static void put_stretch(const Convolution *c, const Pictures *on, Stretch down, Stretch across, Work *work) {
    Rows r = {.down = down, .across = across};
    int64_t line = c->kernel[1] * c->channels, part = (across.to - across.from) * c->channels, rows = down.to - down.from, room = 0;
    int whole = rows == c->kernel[0] && part == line;
    if (part == line || !rows)
        r.parts[r.parts_count++] = (Part){down.from * line, whole ? c->padded : rows * part};
    else
        for (int64_t y = down.from; y < down.to; y++) r.parts[r.parts_count++] = (Part){y * line + across.from * c->channels, part};
    r.stride = whole ? c->padded : rows * part;
    for (int64_t picture = 0; picture < on->count; picture++)
        for (int64_t row = down.first; row < down.end; row++)
            for (int64_t column = across.first; column < across.end; column++) {
                if (r.count == room) {
                    if (r.count) work->rows[work->count++] = r;
                    if (!(room = make_room(work, &r))) convolve(c, work, on->y), room = make_room(work, &r);
                }
                look_through(c, on->x + picture * on->rows * on->columns * c->channels, on->rows, on->columns,
                             row * c->strides[0] - c->pads[0], column * c->strides[1] - c->pads[1], &r,
                             windows + r.offset + r.count * r.stride);
                r.places[r.count++] = ((picture * on->down + row) * on->right + column) * c->maps;
            }
    if (r.count) work->rows[work->count++] = r;
}

/* Pictures whose rows are windows as they lie. No more of them are read than there are: the rest is left. */
static int64_t convolve_pixels(const Convolution *c, const Pictures *on) {
    int64_t pixels = on->count * on->rows * on->columns / GRAIN * GRAIN, most = ROOM / c->channels < ROWS ? ROOM / c->channels : ROWS;
    Rows r = {.places = places, .stride = c->channels, .down = {0, 0, 0, 1}, .across = {0, 0, 0, 1}, .parts = {{0, c->channels}},
              .parts_count = 1};
    most = most / GROUP * GROUP;
    for (int64_t done = 0; done < pixels; done += r.count) {
        r.rows = on->x + done * c->channels, r.count = pixels - done < most ? pixels - done : most;
        for (int64_t i = 0; i < r.count; i++) places[i] = (done + i) * c->maps;
        Work work = {.rows = {r}, .count = 1};
        convolve(c, &work, on->y);
    }
    return pixels;
}

/* How many pixels the unit takes the time of, times how much of the kernel they see. */
static int64_t cost_of(const Pictures *on, const Stretch *down, const Stretch *across) {
    int64_t pixels = on->count * (down->end - down->first) * (across->end - across->first);
    return (pixels + GRAIN - 1) / GRAIN * GRAIN * (down->to - down->from) * (across->to - across->from);
}

static OrtStatus *compute(void *kernel, OrtKernelContext *context) {
    const Convolution *c = kernel;
    const OrtValue *input;
    OrtValue *output;
    Tensor x;
    TRY(ORT(c->api, GetInput)(context, X, &input));
    TRY(look_at(c->api, input, &x));
    if (x.rank != 4 || x.sizes[3] != c->channels) return failure(c->api, "QLinearConv: expected pictures with channels last");
    Pictures on = {.count = x.sizes[0], .rows = x.sizes[1], .columns = x.sizes[2], .x = x.data};
    on.down = output_side(on.rows, c->pads[0] + c->pads[2], c->kernel[0], c->gaps[0], c->strides[0]);
    on.right = output_side(on.columns, c->pads[1] + c->pads[3], c->kernel[1], c->gaps[1], c->strides[1]);
    TRY(ORT(c->api, GetOutput)(context, 0, (int64_t[]){on.count, on.down, on.right, c->maps}, 4, &output));
    TRY(ORT(c->api, GetTensorMutableData)(output, (void **)&on.y));
    if (!(on.count && on.down && on.right)) return NULL;

    prepare_unit();
    if (sees_one_pixel(c)) {
        int64_t done = convolve_pixels(c, &on), pixels = on.count * on.down * on.right;
        on.x += done * c->channels, on.y += done * c->maps;
        on.count = 1, on.rows = on.down = 1, on.columns = on.right = pixels - done;
    }
    Stretch whole[2] = {{0, on.down, 0, c->kernel[0]}, {0, on.right, 0, c->kernel[1]}};
    Stretch down[MOST_STRETCHES], across[MOST_STRETCHES];
    int rows = 0, columns = 0;
    int64_t cost = 0;
    if (c->channels % DEPTH == 0 && c->kernel[0] <= MOST_PARTS) {
        rows = stretches_of(c, 0, on.rows, on.down, down), columns = stretches_of(c, 1, on.columns, on.right, across);
        for (int i = 0; i < rows * columns; i++) cost += cost_of(&on, &down[i / columns], &across[i % columns]);
    }
    Work work = {.count = 0};
    if (rows && cost < cost_of(&on, &whole[0], &whole[1]))
        for (int i = 0; i < rows * columns; i++) put_stretch(c, &on, down[i / columns], across[i % columns], &work);
    else
        put_stretch(c, &on, whole[0], whole[1], &work);
    convolve(c, &work, on.y);
    leave_unit();
    return NULL;
}

/* --- For onnxruntime --------------------------------------------------------------------------------------------------------- */

static const char *name(const OrtCustomOp *op) { return (void)op, "QLinearConv"; }
static size_t input_count(const OrtCustomOp *op) { return (void)op, INPUTS; }
static int input_type(const OrtCustomOp *op, size_t index) {
    static const int types[INPUTS] = {ORT_UINT8, ORT_FLOAT, ORT_UINT8, ORT_INT8, ORT_FLOAT, ORT_INT8, ORT_FLOAT, ORT_UINT8, ORT_INT32};
    return (void)op, types[index];
}
static int input_need(const OrtCustomOp *op, size_t index) { return (void)op, index == BIAS ? ORT_OPTIONAL : ORT_REQUIRED; }
static int output_type(const OrtCustomOp *op, size_t index) { return (void)op, (void)index, ORT_UINT8; }

static const OrtCustomOp OPERATOR = {
    COMMON_TO_OPERATORS, .name = name, .input_count = input_count, .input_type = input_type, .input_need = input_need,
    .output_type = output_type, .create = create, .compute = compute, .destroy = destroy};

extern const OrtCustomOp QLINEARADD; /* of qlinearadd.c */

OFFERED OrtStatus *RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base) {
    TRY(ask_for_unit(base->get_api(1)));
    return offer((const OrtCustomOp *[]){&OPERATOR, &QLINEARADD, NULL}, "com.microsoft", options, base);
}
