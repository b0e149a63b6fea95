/* A SIMULATED libnvidia-ml.so.1: it proves nothing, there is no GPU.
 *
 * Guarantees: the functions of nvml.h that attestation calls, with their structures, sizes and
 * return codes, so that the real nvidia-ml-py runs unchanged. Every call is passed on to one
 * simulated machine over its unix socket (inference_runtime/attester/socket_wire.py); the path is
 * fixed when this file is compiled: -DSOCKET_PATH="...". Anything else than a good answer of the
 * expected size is NVML_ERROR_UNKNOWN. Says so on stderr when it is initialised.
 */

#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#ifndef SOCKET_PATH
#error "compile with -DSOCKET_PATH=..."
#endif

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, INSUFFICIENT_SIZE = 7, MISMATCH = 25, UNKNOWN = 999 };
enum { F_INIT, F_SETTINGS, F_COUNT, F_REPORT, F_CHAIN, F_GET_READY, F_SET_READY, F_DRIVER, F_UUID, F_VBIOS };
enum { HEAD = 10, NONCE = 32, CERT_CHAIN = 0x1000, ATTESTATION_CHAIN = 0x1400, REPORT = 0x2000, CEC = 0x1000 };
enum { NVML = 3, MAX_GPUS = 256, SETTINGS_V1 = 0x1000014, HOPPER = 9 };

typedef struct { unsigned environment, feature, devtools; } State;
typedef struct { unsigned version, environment, feature, devtools, multi_gpu; } Settings;
typedef struct {
    unsigned size, attestation_size;
    uint8_t chain[CERT_CHAIN], attestation[ATTESTATION_CHAIN];
} Certificate;
typedef struct {
    unsigned cec_present, size, cec_size;
    uint8_t nonce[NONCE], report[REPORT], cec[CEC];
} Attestation;

/* A handle is the address of a byte here; the offset is the GPU's index. */
static const uint8_t handles[MAX_GPUS];

static int all(int fd, uint8_t *data, size_t size, int writing)
{
    while (size) {
        ssize_t n = writing ? send(fd, data, size, MSG_NOSIGNAL) : recv(fd, data, size, 0);
        if (n <= 0)
            return 0;
        data += n;
        size -= (size_t)n;
    }
    return 1;
}

static unsigned number(const uint8_t *p)
{
    return (unsigned)p[0] << 24 | (unsigned)p[1] << 16 | (unsigned)p[2] << 8 | p[3];
}

/* Ask the machine; at most `room` bytes come back in `out`, and their count in `got`. */
static int ask(int function, unsigned index, const uint8_t *argument, size_t size, uint8_t *out,
               size_t room, size_t *got)
{
    uint8_t message[HEAD + 2 + NONCE] = "OSIM\x02";
    uint8_t head[HEAD], code[4];
    struct sockaddr_un where = { .sun_family = AF_UNIX };
    int result = UNKNOWN;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    *got = 0;
    strncpy(where.sun_path, SOCKET_PATH, sizeof where.sun_path - 1);
    message[5] = NVML;
    message[9] = (uint8_t)(2 + size);
    message[10] = (uint8_t)function;
    message[11] = (uint8_t)index;
    if (size)
        memcpy(message + HEAD + 2, argument, size);
    if (fd >= 0 && !connect(fd, (struct sockaddr *)&where, sizeof where)
        && all(fd, message, HEAD + 2 + size, 1) && all(fd, head, HEAD, 0)
        && !memcmp(head, message, 5) && head[5] == 0 && number(head + 6) >= 4
        && all(fd, code, 4, 0)) {
        size_t length = number(head + 6) - 4;
        result = (int)number(code);
        if (result == SUCCESS && length > room)
            result = INSUFFICIENT_SIZE;
        else if (result == SUCCESS && !all(fd, out, length, 0))
            result = UNKNOWN;
        else if (result == SUCCESS)
            *got = length;
    }
    if (fd >= 0)
        close(fd);
    return result;
}

static int numbers(int function, unsigned *values, size_t count)
{
    uint8_t out[16];
    size_t got, i;
    int code = ask(function, 0, NULL, 0, out, sizeof out, &got);

    if (code == SUCCESS && got != 4 * count)
        return UNKNOWN;
    for (i = 0; code == SUCCESS && i < count; i++)
        values[i] = number(out + 4 * i);
    return code;
}

static int text(int function, unsigned index, char *out, unsigned length)
{
    size_t got;
    int code = length ? ask(function, index, NULL, 0, (uint8_t *)out, length - 1, &got) : INSUFFICIENT_SIZE;

    if (code == SUCCESS)
        out[got] = 0;
    return code;
}

static int index_of(const uint8_t *device, unsigned *index)
{
    if (device < handles || device >= handles + MAX_GPUS)
        return 0;
    *index = (unsigned)(device - handles);
    return 1;
}

int nvmlInitWithFlags(unsigned flags)
{
    int code = numbers(F_INIT, NULL, 0);

    (void)flags;
    if (code == SUCCESS)
        fputs("SIMULATED NVML: this driver proves nothing, there is no GPU.\n", stderr);
    return code;
}

int nvmlInit_v2(void)
{
    return nvmlInitWithFlags(0);
}

int nvmlShutdown(void)
{
    return SUCCESS;
}

const char *nvmlErrorString(int code)
{
    static char said[48];

    snprintf(said, sizeof said, "SIMULATED NVML error %d", code);
    return said;
}

int nvmlSystemGetDriverVersion(char *version, unsigned length)
{
    return text(F_DRIVER, 0, version, length);
}

int nvmlSystemGetConfComputeState(State *state)
{
    unsigned v[4];
    int code = numbers(F_SETTINGS, v, 4);

    if (code == SUCCESS)
        *state = (State){ v[0], v[1], v[2] };
    return code;
}

int nvmlSystemGetConfComputeSettings(Settings *settings)
{
    unsigned v[4];
    int code;

    if (settings->version != SETTINGS_V1)
        return MISMATCH;
    code = numbers(F_SETTINGS, v, 4);
    if (code == SUCCESS)
        *settings = (Settings){ SETTINGS_V1, v[0], v[1], v[2], v[3] };
    return code;
}

int nvmlSystemGetConfComputeGpusReadyState(unsigned *accepting)
{
    return numbers(F_GET_READY, accepting, 1);
}

int nvmlSystemSetConfComputeGpusReadyState(unsigned accepting)
{
    uint8_t argument = (uint8_t)accepting, none;
    size_t got;

    return accepting > 1 ? INVALID_ARGUMENT : ask(F_SET_READY, 0, &argument, 1, &none, 0, &got);
}

int nvmlDeviceGetCount_v2(unsigned *count)
{
    return numbers(F_COUNT, count, 1);
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, const uint8_t **device)
{
    unsigned count;
    int code = numbers(F_COUNT, &count, 1);

    if (code != SUCCESS)
        return code;
    if (index >= count || index >= MAX_GPUS)
        return INVALID_ARGUMENT;
    *device = handles + index;
    return SUCCESS;
}

int nvmlDeviceGetUUID(const uint8_t *device, char *uuid, unsigned length)
{
    unsigned index;

    return index_of(device, &index) ? text(F_UUID, index, uuid, length) : INVALID_ARGUMENT;
}

int nvmlDeviceGetVbiosVersion(const uint8_t *device, char *version, unsigned length)
{
    unsigned index;

    return index_of(device, &index) ? text(F_VBIOS, index, version, length) : INVALID_ARGUMENT;
}

int nvmlDeviceGetArchitecture(const uint8_t *device, unsigned *architecture)
{
    unsigned index;

    if (!index_of(device, &index))
        return INVALID_ARGUMENT;
    *architecture = HOPPER;
    return SUCCESS;
}

int nvmlDeviceGetConfComputeGpuCertificate(const uint8_t *device, Certificate *certificate)
{
    unsigned index;
    size_t got;
    int code;

    if (!index_of(device, &index))
        return INVALID_ARGUMENT;
    code = ask(F_CHAIN, index, NULL, 0, certificate->attestation, ATTESTATION_CHAIN, &got);
    if (code == SUCCESS) {
        certificate->size = 0;
        certificate->attestation_size = (unsigned)got;
    }
    return code;
}

int nvmlDeviceGetConfComputeGpuAttestationReport(const uint8_t *device, Attestation *report)
{
    unsigned index;
    size_t got;
    int code;

    if (!index_of(device, &index))
        return INVALID_ARGUMENT;
    code = ask(F_REPORT, index, report->nonce, NONCE, report->report, REPORT, &got);
    if (code == SUCCESS) {
        report->cec_present = report->cec_size = 0;
        report->size = (unsigned)got;
    }
    return code;
}
