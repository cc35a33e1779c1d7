/* QLinearAdd for onnxruntime: sums of bytes that have a scale and a zero each (com.microsoft.QLinearAdd), each bit as onnxruntime's own.
 * It is part of the libraries for QLinearConv, whose outputs it adds.
 *
 * onnxruntime adds 32 bytes at a time, here it is 64. How it rounds was found by comparing each pair of bytes for thousands of scales, with
 * version 1.31: one side's numbers are taken first, the other's are added to them, and each product is rounded with its sum, not before.
 *
 * A sum that it does not take fails when the graph is opened: one of signed bytes, or with scales or zeros that are no constants.
 */
#include <immintrin.h>
#include <stdlib.h>

#include "operators.h"

enum {
    STEP = 64,       /* bytes of a register */
    PARTS = 4,       /* registers that as many numbers of 32 bits fill */
    MOST_AXES = 1024 /* more than anybody has */
};

enum { A, A_SCALE, A_ZERO, B, B_SCALE, B_ZERO, Y_SCALE, Y_ZERO, INPUTS };

/* One addition, ready to run. Any number of threads may run it. */
typedef struct {
    const OrtApi *api;
    float scale[INPUTS]; /* by the place of the input */
    uint8_t zero[INPUTS];
} Addition;

typedef struct {
    const uint8_t *bytes;
    int64_t sizes[MOST_AXES];
    size_t rank;
} Side;

/* Numbers of the output's, and for each of a side's how far from it the next one lies: 0 where it is the same one. */
typedef struct {
    int64_t size, a, b;
} Axis;

/* Both sides' numbers in steps of the output, and what is added for all zeros. */
typedef struct {
    __m512 first, second, zeros;
} Weights;

/* --- Opening ----------------------------------------------------------------------------------------------------------------- */

static OrtStatus *read_graph(void *kernel, const OrtKernelInfo *info) {
    Addition *sum = kernel;
    size_t count;
    TRY(ORT(sum->api, GetInputCount)(info, &count));
    if (count != INPUTS) return failure(sum->api, "QLinearAdd: expected 8 inputs");
    for (size_t i = 0; i < INPUTS; i++) {
        Tensor number;
        if (i == A || i == B) continue;
        TRY(constant(sum->api, info, i, &number));
        if (number.count != 1 || number.rank > 1) return failure(sum->api, "QLinearAdd: expected one number");
        if (i == A_ZERO || i == B_ZERO || i == Y_ZERO)
            sum->zero[i] = *(const uint8_t *)number.data;
        else
            sum->scale[i] = *(const float *)number.data;
    }
    return NULL;
}

static OrtStatus *create(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **kernel) {
    (void)op;
    return make(sizeof(Addition), api, info, read_graph, free, kernel);
}

/* --- Running ----------------------------------------------------------------------------------------------------------------- */

/* As onnxruntime finds them: in every run, with what is rounded in this order. */
static Weights weights_of(const Addition *sum, size_t first, size_t second) {
    __m512 y_scale = _mm512_set1_ps(sum->scale[Y_SCALE]);
    Weights w = {.first = _mm512_div_ps(_mm512_set1_ps(sum->scale[first + A_SCALE]), y_scale),
                 .second = _mm512_div_ps(_mm512_set1_ps(sum->scale[second + A_SCALE]), y_scale)};
    __m512 zeros = _mm512_mul_ps(w.first, _mm512_set1_ps(sum->zero[first + A_ZERO]));
    zeros = _mm512_fmadd_ps(w.second, _mm512_set1_ps(sum->zero[second + A_ZERO]), zeros);
    w.zeros = _mm512_sub_ps(_mm512_set1_ps(sum->zero[Y_ZERO]), zeros);
    return w;
}

/* Sums that are too large for 32 bits, and no numbers, become the least of those: so zeros, as onnxruntime's do. */
static inline __m512i added(__m512i first, __m512i second, const Weights *w) {
    const int alone = (int)0x80808000; /* a byte, and nothing above it */
    __m512i sums[PARTS];
    for (int part = 0; part < PARTS; part++) { /* of each 16 bytes the next four, in the order in which they are packed */
        __m512i four = _mm512_add_epi32(_mm512_set4_epi32(alone + 3, alone + 2, alone + 1, alone), _mm512_set1_epi32(4 * part));
        __m512 sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_shuffle_epi8(first, four)), w->first, w->zeros);
        sums[part] = _mm512_cvtps_epi32(_mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_shuffle_epi8(second, four)), w->second, sum));
    }
    return _mm512_packus_epi16(_mm512_packs_epi32(sums[0], sums[1]), _mm512_packs_epi32(sums[2], sums[3]));
}

static inline __m512i bytes_at(const uint8_t *bytes, int64_t next) {
    return next ? _mm512_loadu_si512(bytes) : _mm512_set1_epi8((char)*bytes);
}

static inline __m512i last_bytes_at(const uint8_t *bytes, int64_t next, __mmask64 there) {
    return next ? _mm512_maskz_loadu_epi8(there, bytes) : _mm512_set1_epi8((char)*bytes);
}

/* `count` sums beside each other. `next`: 1, or 0 where one number is added to all. */
static void add(const uint8_t *first, int64_t first_next, const uint8_t *second, int64_t second_next, const Weights *w, uint8_t *y,
                int64_t count) {
    const Weights kept = *w;
    int64_t done = 0;
    for (; done + STEP <= count; done += STEP)
        _mm512_storeu_si512(y + done, added(bytes_at(first + done * first_next, first_next),
                                            bytes_at(second + done * second_next, second_next), &kept));
    if (done == count) return;
    __mmask64 there = _cvtu64_mask64(~0ull >> (STEP - (count - done)));
    _mm512_mask_storeu_epi8(y + done, there, added(last_bytes_at(first + done * first_next, first_next, there),
                                                   last_bytes_at(second + done * second_next, second_next, there), &kept));
}

static OrtStatus *read_side(const Addition *sum, OrtKernelContext *context, size_t index, Side *side) {
    const OrtValue *value;
    OrtShape *shape;
    OrtStatus *status;
    TRY(ORT(sum->api, GetInput)(context, index, &value));
    TRY(ORT(sum->api, GetTensorTypeAndShape)(value, &shape));
    status = ORT(sum->api, GetDimensionsCount)(shape, &side->rank);
    if (!status && side->rank > MOST_AXES) status = failure(sum->api, "QLinearAdd: expected tensors of 1,024 dimensions at most");
    if (!status) status = ORT(sum->api, GetDimensions)(shape, side->sizes, side->rank);
    ORT(sum->api, ReleaseShape)(shape);
    return status ? status : ORT(sum->api, GetTensorMutableData)(value, (void **)&side->bytes);
}

/* Along an axis, counted from the innermost one. */
static inline int64_t size_of(const Side *side, size_t axis) { return axis < side->rank ? side->sizes[side->rank - 1 - axis] : 1; }

/* onnxruntime takes B's numbers first, but A's where A has one number alone along the innermost axis that both have and that is longer. */
static int takes_a_first(const Side *a, const Side *b) {
    size_t both = a->rank < b->rank ? a->rank : b->rank, axis = 0;
    while (axis + 1 < both && size_of(a, axis) <= 1 && size_of(b, axis) <= 1) axis++;
    return size_of(a, axis) <= 1;
}

/* The output's sizes, and its axes from the innermost on: those together along which both sides go on alike. 0 where the sides do not
 * fit to each other. */
static size_t axes_of(const Side *a, const Side *b, size_t rank, int64_t *sizes, Axis *axes) {
    size_t count = 0;
    axes[0] = (Axis){1, 1, 1};
    for (size_t i = 0, a_next = 1, b_next = 1; i < rank; i++) {
        int64_t in_a = size_of(a, i), in_b = size_of(b, i), size = in_a == 1 ? in_b : in_a;
        if (in_a != size && in_a != 1) return 0;
        if (in_b != size && in_b != 1) return 0;
        sizes[rank - 1 - i] = size;
        if (size == 1) continue;
        Axis next = {size, in_a == 1 ? 0 : (int64_t)a_next, in_b == 1 ? 0 : (int64_t)b_next}, *last = &axes[count - !!count];
        if (count && next.a == last->a * last->size && next.b == last->b * last->size)
            last->size *= size;
        else
            axes[count++] = next;
        a_next *= (size_t)in_a, b_next *= (size_t)in_b;
    }
    return count ? count : 1;
}

static OrtStatus *compute(void *kernel, OrtKernelContext *context) {
    const Addition *sum = kernel;
    Side a, b;
    int64_t sizes[MOST_AXES], count = 1;
    Axis axes[MOST_AXES];
    OrtValue *output;
    uint8_t *y;
    TRY(read_side(sum, context, A, &a));
    TRY(read_side(sum, context, B, &b));
    size_t rank = a.rank > b.rank ? a.rank : b.rank, depth = axes_of(&a, &b, rank, sizes, axes);
    if (!depth) return failure(sum->api, "QLinearAdd: expected shapes that fit to each other");
    TRY(ORT(sum->api, GetOutput)(context, 0, sizes, rank, &output));
    TRY(ORT(sum->api, GetTensorMutableData)(output, (void **)&y));
    for (size_t i = 0; i < depth; i++) count *= axes[i].size;
    int a_first = takes_a_first(&a, &b);
    Weights w = a_first ? weights_of(sum, A, B) : weights_of(sum, B, A);
    for (int64_t done = 0; done < count; done += axes[0].size) {
        int64_t from_a = 0, from_b = 0, left = done / axes[0].size;
        for (size_t i = 1; i < depth; left /= axes[i++].size)
            from_a += left % axes[i].size * axes[i].a, from_b += left % axes[i].size * axes[i].b;
        if (a_first)
            add(a.bytes + from_a, axes[0].a, b.bytes + from_b, axes[0].b, &w, y + done, axes[0].size);
        else
            add(b.bytes + from_b, axes[0].b, a.bytes + from_a, axes[0].a, &w, y + done, axes[0].size);
    }
    return NULL;
}

/* --- For onnxruntime --------------------------------------------------------------------------------------------------------- */

static const char *name(const OrtCustomOp *op) { return (void)op, "QLinearAdd"; }
static size_t input_count(const OrtCustomOp *op) { return (void)op, INPUTS; }
static int input_type(const OrtCustomOp *op, size_t index) {
    static const int types[INPUTS] = {ORT_UINT8, ORT_FLOAT, ORT_UINT8, ORT_UINT8, ORT_FLOAT, ORT_UINT8, ORT_FLOAT, ORT_UINT8};
    return (void)op, types[index];
}
static int output_type(const OrtCustomOp *op, size_t index) { return (void)op, (void)index, ORT_UINT8; }

const OrtCustomOp QLINEARADD = {
    COMMON_TO_OPERATORS, .name = name, .input_count = input_count, .input_type = input_type, .input_need = required,
    .output_type = output_type, .create = create, .compute = compute, .destroy = free};
