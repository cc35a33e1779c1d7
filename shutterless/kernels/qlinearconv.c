/* QLinearConv for onnxruntime, on the matrix unit that Intel's server CPUs have since 2023 (AMX): int8 convolutions over pictures
 * whose channels lie innermost (com.microsoft.QLinearConv, channels_last), each bit as onnxruntime's own.
 *
 * onnxruntime convolves picture by picture, with vector instructions, and rounds in a pass of its own. Here all pixels of all
 * pictures of a batch are the rows of one product of matrices, so weights are read once per batch; the unit multiplies 16 rows by 16
 * maps and 64 bytes at a time, and its sums are rounded while they are in the first cache.
 *
 * A convolution that it does not take fails when the graph is opened: one in groups or over lines, with signed pictures, weights that
 * are no constants or not around zero, pads that are not given in numbers, a bias without a name, or windows of more than 16 kB.
 */
#include <errno.h>
#include <immintrin.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "ort_abi.h"

enum {
    TILE = 16,         /* rows of a tile, and numbers of 32 bits in each */
    STEP = 64,         /* bytes of a tile's row: how much of a window is multiplied at a time */
    PANEL = 2 * TILE,  /* maps that are summed up side by side */
    GROUP = 2 * TILE,  /* pixels that are */
    AHEAD = 8 * 1024,  /* bytes of weights that are on their way while others are multiplied: they come from the third cache */
    ROOM = 512 * 1024, /* bytes for windows, which stay in the second cache */
    MOST_SIDE = 1 << 16,
    REQUEST_PERMISSION = 0x1023, /* arch_prctl's ARCH_REQ_XCOMP_PERM, of tile data: Linux, Documentation/arch/x86/xstate.rst */
    TILE_DATA = 18
};

#define TRY(call)                        \
    do {                                 \
        OrtStatus *status_ = (call);     \
        if (status_) return status_;     \
    } while (0)

enum { X, X_SCALE, X_ZERO, W, W_SCALE, W_ZERO, Y_SCALE, Y_ZERO, BIAS, INPUTS };

/* One convolution, ready to run. Any number of threads may run it. */
typedef struct {
    const OrtApi *api;
    int64_t maps, channels, kernel[2], strides[2], gaps[2], pads[4]; /* rows before columns; pads: top, left, bottom, right */
    int64_t window, padded;  /* bytes of a window, and those rounded up to whole steps */
    int64_t panels;          /* of PANEL maps each, the last one filled up with zeros */
    uint8_t x_zero, y_zero;
    int8_t *weights;         /* by panel, step, half of the panel: tiles of 16 times 64 bytes, as the unit takes them */
    int32_t *bias;           /* of each map, with what x_zero adds to its sums taken off */
    float *scale;            /* of each map's sums, in steps of the output */
} Convolution;

typedef struct {
    const void *data;
    int64_t sizes[4], count;
    size_t rank;
} Tensor;

/* Half a megabyte for each thread that convolves, from its first convolution to its end. */
static _Thread_local uint8_t windows[ROOM] __attribute__((aligned(STEP)));

/* --- Opening ----------------------------------------------------------------------------------------------------------------- */

static OrtStatus *failure(const OrtApi *api, const char *message) { return ORT(api, CreateStatus)(ORT_FAIL, message); }

static OrtStatus *look_at(const OrtApi *api, const OrtValue *value, Tensor *tensor) {
    OrtShape *shape;
    OrtStatus *status;
    TRY(ORT(api, GetTensorTypeAndShape)(value, &shape));
    status = ORT(api, GetDimensionsCount)(shape, &tensor->rank);
    if (!status && tensor->rank > 4) status = failure(api, "QLinearConv: expected tensors of 4 dimensions at most");
    if (!status) status = ORT(api, GetDimensions)(shape, tensor->sizes, tensor->rank);
    ORT(api, ReleaseShape)(shape);
    if (status) return status;
    tensor->count = 1;
    for (size_t i = 0; i < tensor->rank; i++) tensor->count *= tensor->sizes[i];
    return ORT(api, GetTensorMutableData)(value, (void **)&tensor->data);
}

static OrtStatus *constant(const OrtApi *api, const OrtKernelInfo *info, size_t index, Tensor *tensor) {
    const OrtValue *value = NULL;
    int is_constant = 0;
    TRY(ORT(api, GetConstantInput)(info, index, &is_constant, &value));
    if (!is_constant || !value) return failure(api, "QLinearConv: expected constants beside the picture");
    return look_at(api, value, tensor);
}

/* What an attribute is, or stays where the graph does not name it; 0 where it is something else than `count` numbers. */
static int read_numbers(const OrtApi *api, const OrtKernelInfo *info, const char *name, int64_t *values, size_t count) {
    size_t found = 0;
    OrtStatus *status = ORT(api, GetAttributeInt64s)(info, name, NULL, &found);
    int absent = status != NULL;
    if (!absent && found == count) status = ORT(api, GetAttributeInt64s)(info, name, values, &found);
    if (status) ORT(api, ReleaseStatus)(status);
    return absent || (found == count && !status);
}

static void read_number(const OrtApi *api, const OrtKernelInfo *info, const char *name, int64_t *value) {
    OrtStatus *status = ORT(api, GetAttributeInt64)(info, name, value);
    if (status) ORT(api, ReleaseStatus)(status);
}

static int pads_by_itself(const OrtApi *api, const OrtKernelInfo *info) {
    char text[sizeof "NOTSET"] = "";
    size_t size = 0;
    OrtStatus *status = ORT(api, GetAttributeString)(info, "auto_pad", NULL, &size);
    int absent = status != NULL;
    if (!absent && size == sizeof text) status = ORT(api, GetAttributeString)(info, "auto_pad", text, &size);
    if (status) ORT(api, ReleaseStatus)(status);
    return !absent && strcmp(text, "NOTSET") != 0;
}

static int all_in(const int64_t *values, size_t count, int64_t least) {
    for (size_t i = 0; i < count; i++)
        if (values[i] < least || values[i] > MOST_SIDE) return 0;
    return 1;
}

static void destroy(void *kernel) {
    Convolution *c = kernel;
    free(c->weights);
    free(c->bias);
    free(c->scale);
    free(c);
}

/* onnxruntime's weights (maps, channels, rows, columns) into tiles; `sums` of each map's weights. */
static void pack(Convolution *c, const int8_t *weights, int32_t *sums) {
    uint32_t area = (uint32_t)(c->kernel[0] * c->kernel[1]), channels = (uint32_t)c->channels;
    for (int64_t map = 0; map < c->maps; map++) {
        int8_t *panel = c->weights + map / PANEL * PANEL * c->padded;
        int8_t *column = panel + map % PANEL / TILE * (TILE * STEP) + map % TILE * 4;
        for (uint32_t channel = 0; channel < channels; channel++)
            for (uint32_t place = 0; place < area; place++) {
                uint32_t byte = place * channels + channel; /* in a window */
                int8_t weight = *weights++;
                column[byte / STEP * (PANEL * STEP) + byte % STEP / 4 * STEP + byte % 4] = weight;
                sums[map] += weight;
            }
    }
}

static OrtStatus *read_attributes(Convolution *c, const OrtKernelInfo *info) {
    const OrtApi *api = c->api;
    int64_t group = 1, channels_last = 0;
    read_number(api, info, "group", &group);
    read_number(api, info, "channels_last", &channels_last);
    int read = read_numbers(api, info, "kernel_shape", c->kernel, 2) && read_numbers(api, info, "strides", c->strides, 2) &&
               read_numbers(api, info, "dilations", c->gaps, 2) && read_numbers(api, info, "pads", c->pads, 4);
    if (!read || group != 1 || !channels_last || pads_by_itself(api, info) || !all_in(c->strides, 2, 1) ||
        !all_in(c->gaps, 2, 1) || !all_in(c->pads, 4, 0))
        return failure(api, "QLinearConv: expected one group, channels last, pads in numbers");
    return NULL;
}

/* Weights, bias and scales, out of constants that were looked at before. */
static OrtStatus *prepare(Convolution *c, const Tensor inputs[INPUTS]) {
    size_t maps = (size_t)c->panels * PANEL;
    c->weights = aligned_alloc(STEP, maps * (size_t)c->padded);
    c->bias = aligned_alloc(STEP, maps * sizeof *c->bias);
    c->scale = aligned_alloc(STEP, maps * sizeof *c->scale);
    if (!c->weights || !c->bias || !c->scale) return failure(c->api, "QLinearConv: no memory for the weights");
    memset(c->weights, 0, maps * (size_t)c->padded);
    memset(c->bias, 0, maps * sizeof *c->bias);
    memset(c->scale, 0, maps * sizeof *c->scale);
    pack(c, inputs[W].data, c->bias);

    c->x_zero = *(const uint8_t *)inputs[X_ZERO].data, c->y_zero = *(const uint8_t *)inputs[Y_ZERO].data;
    float x_scale = *(const float *)inputs[X_SCALE].data, y_scale = *(const float *)inputs[Y_SCALE].data;
    const float *w_scale = inputs[W_SCALE].data;
    const int32_t *bias = inputs[BIAS].data;
    for (int64_t map = 0; map < c->maps; map++) {
        c->bias[map] = (int32_t)((bias ? (uint32_t)bias[map] : 0) - c->x_zero * (uint32_t)c->bias[map]);
        c->scale[map] = x_scale * w_scale[inputs[W_SCALE].count == 1 ? 0 : map] / y_scale;
    }
    return NULL;
}

static OrtStatus *read_constants(Convolution *c, const OrtKernelInfo *info) {
    const OrtApi *api = c->api;
    Tensor inputs[INPUTS] = {{0}};
    size_t count;
    TRY(ORT(api, GetInputCount)(info, &count));
    if (count < BIAS || count > INPUTS) return failure(api, "QLinearConv: expected 8 or 9 inputs");
    for (size_t i = X_SCALE; i < count; i++) TRY(constant(api, info, i, &inputs[i]));
    const Tensor *w = &inputs[W];
    if (w->rank != 4 || !all_in(w->sizes, 4, 1)) return failure(api, "QLinearConv: expected weights of 4 dimensions");
    if (!c->kernel[0]) c->kernel[0] = w->sizes[2], c->kernel[1] = w->sizes[3];
    if (c->kernel[0] != w->sizes[2] || c->kernel[1] != w->sizes[3])
        return failure(api, "QLinearConv: expected weights of the kernel's shape");
    c->maps = w->sizes[0], c->channels = w->sizes[1];
    c->window = w->count / c->maps, c->padded = (c->window + STEP - 1) / STEP * STEP, c->panels = (c->maps + PANEL - 1) / PANEL;
    if (c->padded > ROOM / GROUP) return failure(api, "QLinearConv: a window is too large");
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
    Convolution *c = calloc(1, sizeof *c);
    if (!c) return failure(api, "QLinearConv: no memory");
    *c = (Convolution){.api = api, .strides = {1, 1}, .gaps = {1, 1}};
    OrtStatus *status = read_attributes(c, info);
    if (!status) status = read_constants(c, info);
    if (status)
        destroy(c);
    else
        *kernel = c;
    return status;
}

/* --- Running ----------------------------------------------------------------------------------------------------------------- */

static inline __mmask64 first(int64_t count) { return _cvtu64_mask64(~0ull >> (64 - count)); } /* of 1 to 64 */

static inline void copy(uint8_t *to, const uint8_t *from, int64_t bytes) {
    for (; bytes >= 64; bytes -= 64, to += 64, from += 64) _mm512_storeu_si512(to, _mm512_loadu_si512(from));
    if (bytes) _mm512_mask_storeu_epi8(to, first(bytes), _mm512_maskz_loadu_epi8(first(bytes), from));
}

static inline void fill(uint8_t *to, uint8_t value, int64_t bytes) {
    __m512i all = _mm512_set1_epi8((char)value);
    for (; bytes >= 64; bytes -= 64, to += 64) _mm512_storeu_si512(to, all);
    if (bytes) _mm512_mask_storeu_epi8(to, first(bytes), all);
}

/* What the window sees that starts at `top` and `left` of a picture of `rows` times `columns`; around it lies x_zero. */
static void look_through(const Convolution *c, const uint8_t *picture, int64_t rows, int64_t columns, int64_t top, int64_t left,
                         uint8_t *window) {
    int64_t channels = c->channels, width = c->kernel[1], line_bytes = width * channels;
    for (int64_t y = 0; y < c->kernel[0]; y++, window += line_bytes) {
        int64_t row = top + y * c->gaps[0];
        if (row < 0 || row >= rows) {
            fill(window, c->x_zero, line_bytes);
            continue;
        }
        const uint8_t *line = picture + row * columns * channels;
        if (c->gaps[1] == 1 && left >= 0 && left + width <= columns) {
            copy(window, line + left * channels, line_bytes);
        } else {
            for (int64_t x = 0; x < width; x++) {
                int64_t column = left + x * c->gaps[1];
                if (column < 0 || column >= columns)
                    fill(window + x * channels, c->x_zero, channels);
                else
                    copy(window + x * channels, line + column * channels, channels);
            }
        }
    }
}

/* 16 sums -> bytes of the output: to the nearest, ties to even, as _mm_cvtps_epi32 does for onnxruntime. */
typedef struct {
    __m512 scale, least, most;
    __m512i bias, zero;
} Rounding;

static inline __m128i rounded(const int32_t *sums, const Rounding *r) {
    __m512 exact = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_load_si512(sums), r->bias)), r->scale);
    __m512i near = _mm512_cvtps_epi32(_mm512_min_ps(_mm512_max_ps(exact, r->least), r->most));
    return _mm512_cvtepi32_epi8(_mm512_add_epi32(near, r->zero));
}

static Rounding rounding_of(const Convolution *c, int64_t map) {
    return (Rounding){.scale = _mm512_load_ps(c->scale + map), .bias = _mm512_load_si512(c->bias + map),
                      .least = _mm512_set1_ps(0 - (float)c->y_zero), .most = _mm512_set1_ps(255 - (float)c->y_zero),
                      .zero = _mm512_set1_epi32(c->y_zero)};
}

/* Sums of up to GROUP pixels for PANEL maps: one quarter each for the pixels of a tile and the maps of one. */
typedef struct {
    int32_t quarters[4][TILE * TILE] __attribute__((aligned(STEP)));
} Sums;

static inline void fetch(const int8_t *weights) {
    for (int line = 0; line < PANEL; line++) _mm_prefetch((const char *)((uintptr_t)weights + AHEAD + line * STEP), _MM_HINT_T0);
}

/* The compiler may think that the unit reads nothing from memory: all that is written has to be there before it does. */
static inline void finish_writing(const void *written) { __asm__ volatile("" : : "r"(written) : "memory"); }

static inline void multiply(const uint8_t *pixels, int64_t stride, int64_t count, const int8_t *weights, int64_t steps, int come) {
    finish_writing(pixels);
    _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
    if (count > TILE) {
        for (int64_t step = 0; step < steps; step++, pixels += STEP, weights += PANEL * STEP) {
            if (!come) fetch(weights);
            _tile_loadd(4, pixels, stride);
            _tile_loadd(6, weights, STEP);
            _tile_loadd(7, weights + TILE * STEP, STEP);
            _tile_loadd(5, pixels + TILE * stride, stride);
            _tile_dpbusd(0, 4, 6); _tile_dpbusd(1, 4, 7); _tile_dpbusd(2, 5, 6); _tile_dpbusd(3, 5, 7);
        }
    } else {
        for (int64_t step = 0; step < steps; step++, pixels += STEP, weights += PANEL * STEP) {
            if (!come) fetch(weights);
            _tile_loadd(4, pixels, stride);
            _tile_loadd(6, weights, STEP);
            _tile_loadd(7, weights + TILE * STEP, STEP);
            _tile_dpbusd(0, 4, 6); _tile_dpbusd(1, 4, 7);
        }
    }
}

static inline void keep(Sums *sums) {
    _tile_stored(0, sums->quarters[0], STEP); _tile_stored(1, sums->quarters[1], STEP);
    _tile_stored(2, sums->quarters[2], STEP); _tile_stored(3, sums->quarters[3], STEP);
}

/* `maps` of PANEL: fewer in the last panel of a convolution. */
static inline void write_rounded(const Sums *sums, int64_t count, const Rounding halves[2], int64_t maps, uint8_t *y, int64_t stride) {
    __mmask16 left = _cvtu32_mask16((1u << (maps < TILE ? maps : TILE)) - 1);
    __mmask16 right = _cvtu32_mask16(maps > TILE ? (1u << (maps - TILE)) - 1 : 0);
    for (int64_t pixel = 0; pixel < count; pixel++, y += stride) {
        const int32_t *row = sums->quarters[pixel / TILE * 2] + pixel % TILE * TILE;
        _mm_mask_storeu_epi8(y, left, rounded(row, &halves[0]));
        _mm_mask_storeu_epi8(y + TILE, right, rounded(row + TILE * TILE, &halves[1]));
    }
}

/* `count` rows of windows, `stride` bytes apart, times all weights -> rows of the output. Each group's sums are rounded while the
 * unit multiplies the next one's. Whole tiles are read, so 16 rows for any part of them. */
static void convolve(const Convolution *c, const uint8_t *rows, int64_t stride, int64_t count, uint8_t *y) {
    Sums sums[2];
    for (int64_t panel = 0; panel < c->panels; panel++) {
        const int8_t *weights = c->weights + panel * PANEL * c->padded;
        int64_t map = panel * PANEL, maps = c->maps - map < PANEL ? c->maps - map : PANEL;
        Rounding halves[2] = {rounding_of(c, map), rounding_of(c, map + TILE)};
        int64_t before = 0, group = 0;
        for (int64_t row = 0; row < count; row += GROUP, group++) {
            int64_t here = count - row < GROUP ? count - row : GROUP;
            multiply(rows + row * stride, stride, here, weights, c->padded / STEP, group > 0);
            if (before) write_rounded(&sums[(group - 1) % 2], before, halves, maps, y + (row - GROUP) * c->maps + map, c->maps);
            keep(&sums[group % 2]);
            before = here;
        }
        write_rounded(&sums[(group - 1) % 2], before, halves, maps, y + (group - 1) * GROUP * c->maps + map, c->maps);
    }
}

static void configure_tiles(void) {
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } layout = {.palette = 1};
    for (int tile = 0; tile < 8; tile++) layout.bytes[tile] = STEP, layout.rows[tile] = TILE;
    finish_writing(&layout);
    _tile_loadconfig(&layout);
}

static int sees_one_pixel(const Convolution *c) {
    return c->window == c->channels && c->padded == c->window && c->strides[0] == 1 && c->strides[1] == 1 &&
           !(c->pads[0] | c->pads[1] | c->pads[2] | c->pads[3]);
}

static int64_t output_side(const Convolution *c, int axis, int64_t side) {
    int64_t free_places = side + c->pads[axis] + c->pads[axis + 2] - c->gaps[axis] * (c->kernel[axis] - 1) - 1;
    return free_places < 0 ? 0 : free_places / c->strides[axis] + 1;
}

static OrtStatus *compute(void *kernel, OrtKernelContext *context) {
    const Convolution *c = kernel;
    const OrtValue *input;
    OrtValue *output;
    Tensor x;
    uint8_t *y;
    TRY(ORT(c->api, GetInput)(context, X, &input));
    TRY(look_at(c->api, input, &x));
    if (x.rank != 4 || x.sizes[3] != c->channels) return failure(c->api, "QLinearConv: expected pictures with channels last");
    int64_t rows = x.sizes[1], columns = x.sizes[2], down = output_side(c, 0, rows), right = output_side(c, 1, columns);
    TRY(ORT(c->api, GetOutput)(context, 0, (int64_t[]){x.sizes[0], down, right, c->maps}, 4, &output));
    TRY(ORT(c->api, GetTensorMutableData)(output, (void **)&y));

    int64_t pixels = x.sizes[0] * down * right, done = 0, most = ROOM / c->padded / GROUP * GROUP;
    configure_tiles();
    if (sees_one_pixel(c)) { /* the picture's rows are windows; no more of them are read than there are */
        done = pixels / TILE * TILE;
        if (done) convolve(c, x.data, c->channels, done, y);
    }
    while (done < pixels) {
        int64_t count = pixels - done < most ? pixels - done : most;
        for (int64_t i = 0; i < count; i++) {
            int64_t picture = (done + i) / (down * right), place = (done + i) % (down * right);
            look_through(c, (const uint8_t *)x.data + picture * rows * columns * c->channels, rows, columns,
                         place / right * c->strides[0] - c->pads[0], place % right * c->strides[1] - c->pads[1],
                         windows + i * c->padded);
        }
        convolve(c, windows, c->padded, count, y + done * c->maps);
        done += count;
    }
    _tile_release();
    return NULL;
}

/* --- For onnxruntime --------------------------------------------------------------------------------------------------------- */

static const char *name(const OrtCustomOp *op) { return (void)op, "QLinearConv"; }
static const char *provider(const OrtCustomOp *op) { return (void)op, NULL; } /* CPU */
static size_t input_count(const OrtCustomOp *op) { return (void)op, INPUTS; }
static size_t output_count(const OrtCustomOp *op) { return (void)op, 1; }
static int input_type(const OrtCustomOp *op, size_t index) {
    static const int types[INPUTS] = {ORT_UINT8, ORT_FLOAT, ORT_UINT8, ORT_INT8, ORT_FLOAT, ORT_INT8, ORT_FLOAT, ORT_UINT8, ORT_INT32};
    return (void)op, types[index];
}
static int output_type(const OrtCustomOp *op, size_t index) { return (void)op, (void)index, ORT_UINT8; }
static int input_need(const OrtCustomOp *op, size_t index) { return (void)op, index == BIAS ? ORT_OPTIONAL : ORT_REQUIRED; }
static int output_need(const OrtCustomOp *op, size_t index) { return (void)op, (void)index, ORT_REQUIRED; }
static int input_memory(const OrtCustomOp *op, size_t index) { return (void)op, (void)index, ORT_ANY_MEMORY; }
static int one(const OrtCustomOp *op) { return (void)op, 1; }
static int every_later(const OrtCustomOp *op) { return (void)op, INT32_MAX; }

static const OrtCustomOp OPERATOR = {
    .version = ORT_API_VERSION, .name = name, .provider = provider, .input_type = input_type, .input_count = input_count,
    .output_type = output_type, .output_count = output_count, .destroy = destroy, .input_need = input_need,
    .output_need = output_need, .input_memory = input_memory, .variadic_inputs = one, .variadic_inputs_alike = one,
    .variadic_outputs = one, .variadic_outputs_alike = one, .create = create, .compute = compute, .first_version = one,
    .last_version = every_later};

/* The operator in onnxruntime's own domain, where it is asked first. It lives as long as the process. */
static OrtStatus *find_domain(const OrtApi *api, OrtCustomOpDomain **domain) {
    static OrtCustomOpDomain *made;
    static pthread_mutex_t making = PTHREAD_MUTEX_INITIALIZER;
    OrtStatus *status = NULL;
    pthread_mutex_lock(&making);
    if (!made) {
        OrtCustomOpDomain *empty = NULL;
        status = ORT(api, CreateCustomOpDomain)("com.microsoft", &empty);
        if (!status) status = ORT(api, CustomOpDomainAdd)(empty, &OPERATOR);
        if (!status) made = empty;
    }
    *domain = made;
    pthread_mutex_unlock(&making);
    return status;
}

/* What onnxruntime calls for each session whose options name this library. */
__attribute__((visibility("default"))) OrtStatus *RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base) {
    OrtCustomOpDomain *domain;
    const OrtApi *api = base->get_api(ORT_API_VERSION);
    if (!api) return failure(base->get_api(1), "expected onnxruntime 1.22 or later");
    if (syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA)) {
        char message[128];
        snprintf(message, sizeof message, "Linux gives no permission to use AMX: %s", strerror(errno));
        return failure(api, message);
    }
    TRY(find_domain(api, &domain));
    return ORT(api, AddCustomOpDomain)(options, domain);
}
