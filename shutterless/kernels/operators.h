/* What our operators share: their inputs and attributes, read through onnxruntime's C interface. */
#ifndef OPERATORS_H
#define OPERATORS_H

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "ort_abi.h"

enum { MOST_SIDE = 1 << 16 };

#define TRY(call)                        \
    do {                                 \
        OrtStatus *status_ = (call);     \
        if (status_) return status_;     \
    } while (0)

typedef struct {
    const void *data;
    int64_t sizes[4], count;
    size_t rank;
} Tensor;

static inline OrtStatus *failure(const OrtApi *api, const char *message) { return ORT(api, CreateStatus)(ORT_FAIL, message); }

static inline OrtStatus *look_at(const OrtApi *api, const OrtValue *value, Tensor *tensor) {
    OrtShape *shape;
    OrtStatus *status;
    TRY(ORT(api, GetTensorTypeAndShape)(value, &shape));
    status = ORT(api, GetDimensionsCount)(shape, &tensor->rank);
    if (!status && tensor->rank > 4) status = failure(api, "expected tensors of 4 dimensions at most");
    if (!status) status = ORT(api, GetDimensions)(shape, tensor->sizes, tensor->rank);
    ORT(api, ReleaseShape)(shape);
    if (status) return status;
    tensor->count = 1;
    for (size_t i = 0; i < tensor->rank; i++) tensor->count *= tensor->sizes[i];
    return ORT(api, GetTensorMutableData)(value, (void **)&tensor->data);
}

static inline OrtStatus *constant(const OrtApi *api, const OrtKernelInfo *info, size_t index, Tensor *tensor) {
    const OrtValue *value = NULL;
    int is_constant = 0;
    TRY(ORT(api, GetConstantInput)(info, index, &is_constant, &value));
    if (!is_constant || !value) return failure(api, "expected constants beside the picture");
    return look_at(api, value, tensor);
}

/* What an attribute is, or stays where the graph does not name it; 0 where it is something else than `count` numbers. */
static inline int read_numbers(const OrtApi *api, const OrtKernelInfo *info, const char *name, int64_t *values, size_t count) {
    size_t found = 0;
    OrtStatus *status = ORT(api, GetAttributeInt64s)(info, name, NULL, &found);
    int absent = status != NULL;
    if (!absent && found == count) status = ORT(api, GetAttributeInt64s)(info, name, values, &found);
    if (status) ORT(api, ReleaseStatus)(status);
    return absent || (found == count && !status);
}

static inline void read_number(const OrtApi *api, const OrtKernelInfo *info, const char *name, int64_t *value) {
    OrtStatus *status = ORT(api, GetAttributeInt64)(info, name, value);
    if (status) ORT(api, ReleaseStatus)(status);
}

/* What an attribute says, or "" where the graph does not name it; 0 where it says more than `room` holds. */
static inline int read_text(const OrtApi *api, const OrtKernelInfo *info, const char *name, char *text, size_t room) {
    size_t size = 0;
    *text = 0;
    OrtStatus *status = ORT(api, GetAttributeString)(info, name, NULL, &size);
    int absent = status != NULL;
    if (!absent && size <= room) status = ORT(api, GetAttributeString)(info, name, text, &size);
    if (status) ORT(api, ReleaseStatus)(status);
    return absent || (size <= room && !status);
}

static inline int pads_by_itself(const OrtApi *api, const OrtKernelInfo *info) {
    char text[sizeof "NOTSET"];
    return !read_text(api, info, "auto_pad", text, sizeof text) || (*text && strcmp(text, "NOTSET") != 0);
}

static inline int all_in(const int64_t *values, size_t count, int64_t least) {
    for (size_t i = 0; i < count; i++)
        if (values[i] < least || values[i] > MOST_SIDE) return 0;
    return 1;
}

/* What both convolutions are told of their windows, rows before columns; pads: top, left, bottom, right. `kernel` stays 0 where only the
 * weights tell it. 0 where it is not as they take it: one group, two dimensions, pads in numbers. */
static inline int read_windows(const OrtApi *api, const OrtKernelInfo *info, int64_t kernel[2], int64_t strides[2], int64_t gaps[2],
                               int64_t pads[4]) {
    int64_t group = 1;
    for (int axis = 0; axis < 2; axis++) strides[axis] = gaps[axis] = 1;
    read_number(api, info, "group", &group);
    return read_numbers(api, info, "kernel_shape", kernel, 2) && read_numbers(api, info, "strides", strides, 2) &&
           read_numbers(api, info, "dilations", gaps, 2) && read_numbers(api, info, "pads", pads, 4) && group == 1 &&
           !pads_by_itself(api, info) && all_in(strides, 2, 1) && all_in(gaps, 2, 1) && all_in(pads, 4, 0);
}

/* Weights of 4 dimensions, whose last two are the kernel's: told now, or as told before. */
static inline int fits(const Tensor *weights, int64_t kernel[2]) {
    if (weights->rank != 4 || !all_in(weights->sizes, 4, 1)) return 0;
    if (!kernel[0]) kernel[0] = weights->sizes[2], kernel[1] = weights->sizes[3];
    return kernel[0] == weights->sizes[2] && kernel[1] == weights->sizes[3];
}

/* A kernel of `size` bytes, which begins with `api` and is zeros else, as `read` finds it in the graph: onnxruntime's from then on, or, where
 * something fails, nobody's. */
static inline OrtStatus *make(size_t size, const OrtApi *api, const OrtKernelInfo *info,
                              OrtStatus *(*read)(void *made, const OrtKernelInfo *info), void (*destroy)(void *made), void **kernel) {
    void *made = calloc(1, size);
    if (!made) return failure(api, "no memory for a kernel");
    memcpy(made, &api, sizeof api);
    OrtStatus *status = read(made, info);
    if (status)
        destroy(made);
    else
        *kernel = made;
    return status;
}

/* How many windows of `kernel` places fit along a side. */
static inline int64_t output_side(int64_t side, int64_t pads, int64_t kernel, int64_t gap, int64_t stride) {
    int64_t free_places = side + pads - gap * (kernel - 1) - 1;
    return free_places < 0 ? 0 : free_places / stride + 1;
}

/* Once for each of as many rows as registers hold the sums of: compilers keep numbers there, but not always arrays of them. */
#define EACH_ROW(of) of(0) of(1) of(2) of(3) of(4) of(5) of(6) of(7) of(8) of(9) of(10) of(11) of(12) of(13)

/* --- For onnxruntime --------------------------------------------------------------------------------------------------------- */

static inline int one(const OrtCustomOp *op) { return (void)op, 1; }
static inline int every_later(const OrtCustomOp *op) { return (void)op, INT32_MAX; }
static inline int any_memory(const OrtCustomOp *op, size_t index) { return (void)op, (void)index, ORT_ANY_MEMORY; }
static inline int required(const OrtCustomOp *op, size_t index) { return (void)op, (void)index, ORT_REQUIRED; }
static inline const char *on_cpu(const OrtCustomOp *op) { return (void)op, NULL; }
static inline size_t one_output(const OrtCustomOp *op) { return (void)op, 1; }

#define COMMON_TO_OPERATORS                                                                                                    \
    .version = ORT_API_VERSION, .provider = on_cpu, .output_count = one_output, .output_need = required,                       \
    .input_memory = any_memory, .variadic_inputs = one, .variadic_inputs_alike = one, .variadic_outputs = one,                 \
    .variadic_outputs_alike = one, .first_version = one, .last_version = every_later

/* What onnxruntime calls for each session whose options name the library. */
#define OFFERED __attribute__((visibility("default")))
OFFERED OrtStatus *RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base);

/* The operators, after the last of which comes NULL, in onnxruntime's own domain, where they are asked first. They live as long as the
 * process. */
static inline OrtStatus *offer(const OrtCustomOp *const *ops, const char *in, OrtSessionOptions *options, const OrtApiBase *base) {
    static OrtCustomOpDomain *domain;
    static pthread_mutex_t making = PTHREAD_MUTEX_INITIALIZER;
    const OrtApi *api = base->get_api(ORT_API_VERSION);
    if (!api) return failure(base->get_api(1), "expected onnxruntime 1.22 or later");
    OrtStatus *status = NULL;
    pthread_mutex_lock(&making);
    if (!domain) {
        OrtCustomOpDomain *empty = NULL;
        status = ORT(api, CreateCustomOpDomain)(in, &empty);
        for (; !status && *ops; ops++) status = ORT(api, CustomOpDomainAdd)(empty, *ops); /* fails where there is no memory alone */
        if (!status) domain = empty;
    }
    pthread_mutex_unlock(&making);
    return status ? status : ORT(api, AddCustomOpDomain)(options, domain);
}

#endif
