/* What our operators need of onnxruntime's C interface, written down from its documentation (onnxruntime_c_api.h of 1.22): a table
 * of functions of which only places at the end are ever added, and the table that an operator of one's own gives. */
#ifndef ORT_ABI_H
#define ORT_ABI_H

#include <stddef.h>
#include <stdint.h>

#define ORT_API_VERSION 22

typedef struct OrtStatus OrtStatus; /* NULL: it went well */
typedef struct OrtValue OrtValue;
typedef struct OrtShape OrtShape; /* OrtTensorTypeAndShapeInfo */
typedef struct OrtKernelInfo OrtKernelInfo;
typedef struct OrtKernelContext OrtKernelContext;
typedef struct OrtCustomOpDomain OrtCustomOpDomain;
typedef struct OrtSessionOptions OrtSessionOptions;

typedef struct OrtApi OrtApi;

typedef struct OrtApiBase {
    const OrtApi *(*get_api)(uint32_t version);
    const char *(*get_version)(void);
} OrtApiBase;

/* OrtApi's functions, by their place in its table. */
typedef OrtStatus *CreateStatus(int code, const char *message);
typedef OrtStatus *CreateCustomOpDomain(const char *name, OrtCustomOpDomain **domain);
struct OrtCustomOp;
typedef OrtStatus *CustomOpDomainAdd(OrtCustomOpDomain *domain, const struct OrtCustomOp *op);
typedef OrtStatus *AddCustomOpDomain(OrtSessionOptions *options, OrtCustomOpDomain *domain);
typedef OrtStatus *GetTensorMutableData(const OrtValue *value, void **data);
typedef OrtStatus *GetDimensionsCount(const OrtShape *shape, size_t *count);
typedef OrtStatus *GetDimensions(const OrtShape *shape, int64_t *dimensions, size_t count);
typedef OrtStatus *GetTensorTypeAndShape(const OrtValue *value, OrtShape **shape);
typedef OrtStatus *GetAttributeInt64(const OrtKernelInfo *info, const char *name, int64_t *value);
typedef OrtStatus *GetAttributeString(const OrtKernelInfo *info, const char *name, char *text, size_t *size);
typedef OrtStatus *GetAttributeInt64s(const OrtKernelInfo *info, const char *name, int64_t *values, size_t *count);
typedef OrtStatus *GetInput(const OrtKernelContext *context, size_t index, const OrtValue **value);
typedef OrtStatus *GetOutput(OrtKernelContext *context, size_t index, const int64_t *dimensions, size_t count, OrtValue **value);
typedef OrtStatus *GetInputCount(const OrtKernelInfo *info, size_t *count);
typedef OrtStatus *GetConstantInput(const OrtKernelInfo *info, size_t index, int *is_constant, const OrtValue **value);
typedef void ReleaseStatus(OrtStatus *status);
typedef void ReleaseShape(OrtShape *shape);

enum {
    PLACE_CreateStatus = 0,
    PLACE_CreateCustomOpDomain = 26,
    PLACE_CustomOpDomainAdd = 27,
    PLACE_AddCustomOpDomain = 28,
    PLACE_GetTensorMutableData = 51,
    PLACE_GetDimensionsCount = 61,
    PLACE_GetDimensions = 62,
    PLACE_GetTensorTypeAndShape = 65,
    PLACE_GetAttributeInt64 = 86,
    PLACE_GetAttributeString = 87,
    PLACE_GetInput = 90,
    PLACE_GetOutput = 91,
    PLACE_ReleaseStatus = 93,
    PLACE_ReleaseShape = 99,
    PLACE_GetAttributeInt64s = 163,
    PLACE_GetInputCount = 230,
    PLACE_GetConstantInput = 249,
    PLACES /* that are looked at; there are more */
};
struct OrtApi {
    void (*places[PLACES])(void);
};
#define ORT(api, function) ((function *)((api)->places[PLACE_##function]))

/* Numbers of its enumerations. */
enum { ORT_FAIL = 1, ORT_FLOAT = 1, ORT_UINT8 = 2, ORT_INT8 = 3, ORT_INT32 = 6, ORT_REQUIRED = 0, ORT_OPTIONAL = 1, ORT_ANY_MEMORY = 0 };

/* An operator. Those of version 16 and later are made by `create` and run by `compute`, which can both fail. */
typedef struct OrtCustomOp {
    uint32_t version;
    void *(*create_or_abort)(const struct OrtCustomOp *, const OrtApi *, const OrtKernelInfo *);
    const char *(*name)(const struct OrtCustomOp *);
    const char *(*provider)(const struct OrtCustomOp *);
    int (*input_type)(const struct OrtCustomOp *, size_t);
    size_t (*input_count)(const struct OrtCustomOp *);
    int (*output_type)(const struct OrtCustomOp *, size_t);
    size_t (*output_count)(const struct OrtCustomOp *);
    void (*compute_or_abort)(void *, OrtKernelContext *);
    void (*destroy)(void *);
    int (*input_need)(const struct OrtCustomOp *, size_t);
    int (*output_need)(const struct OrtCustomOp *, size_t);
    int (*input_memory)(const struct OrtCustomOp *, size_t);
    int (*variadic_inputs)(const struct OrtCustomOp *);
    int (*variadic_inputs_alike)(const struct OrtCustomOp *);
    int (*variadic_outputs)(const struct OrtCustomOp *);
    int (*variadic_outputs_alike)(const struct OrtCustomOp *);
    OrtStatus *(*create)(const struct OrtCustomOp *, const OrtApi *, const OrtKernelInfo *, void **);
    OrtStatus *(*compute)(void *, OrtKernelContext *);
    OrtStatus *(*infer_shape)(const struct OrtCustomOp *, void *);
    int (*first_version)(const struct OrtCustomOp *);
    int (*last_version)(const struct OrtCustomOp *);
    size_t (*in_place)(int **inputs, int **outputs); /* which outputs may lie where an input lay that nobody needs any more */
    void (*release_in_place)(int *inputs, int *outputs);
    size_t (*aliases)(int **inputs, int **outputs);
    void (*release_aliases)(int *inputs, int *outputs);
} OrtCustomOp;

#endif
