"""A stranger's look at libcuda, libnvcuvid and libnvidia-encode, by ctypes alone. What it printed on a real H100 (driver 580.159.04)
is fixtures/h100/probe.txt. Order matters: the kernel fault at the end spoils the context."""
import ctypes as c, struct
cu = c.CDLL("libcuda.so.1")
P, U, I, N, Q = c.c_void_p, c.c_uint, c.c_int, c.byref, c.c_uint64
n, d, x, q, r = I(), I(), P(), Q(), Q()
print("uninitialised", cu.cuDeviceGetCount(N(n)), cu.cuDeviceGet(N(d), 0), cu.cuCtxGetCurrent(N(x)), cu.cuInit(1))
print("init", cu.cuInit(0), cu.cuDeviceGet(N(d), 99), cu.cuDeviceGet(N(d), -1), cu.cuDeviceGet(N(d), 0))
b = c.create_string_buffer(99)
print("name", cu.cuDeviceGetName(b, 99, d), b.value, cu.cuDeviceGetName(b, 5, d), b.value)
v = lambda a: (cu.cuDeviceGetAttribute(N(n), a, d), n.value)
print("attributes", [v(a) for a in [*range(1, 21), 31, 32, *range(35, 42), 75, 76, 78, 79, 80, 81, 82, 83, 84, 90, 97, 106]])
print("attribute", cu.cuDeviceGetAttribute(N(n), 9999, d), cu.cuDeviceGetAttribute(N(n), 16, 77))
print("bus", cu.cuDeviceGetPCIBusId(b, 5, d), cu.cuDeviceGetByPCIBusId(N(n), b"zz"))
print("no context", cu.cuMemAlloc_v2(N(q), 16), cu.cuCtxSynchronize(), cu.cuCtxGetDevice(N(n)), cu.cuCtxPopCurrent_v2(N(x)))
print("release", cu.cuDevicePrimaryCtxRelease_v2(d))
print("context", cu.cuDevicePrimaryCtxRetain(N(x), d), cu.cuCtxPushCurrent_v2(x), cu.cuCtxGetApiVersion(x, N(n)), n.value)
print("memory", cu.cuMemGetInfo_v2(N(q), N(r)), r.value, q.value, cu.cuDeviceTotalMem_v2(N(q), d), q.value)
print("alloc", cu.cuMemAlloc_v2(N(q), 0), cu.cuMemAlloc_v2(N(q), 1 << 40), cu.cuMemAlloc_v2(N(q), 4096), q.value % 512)
w = (U * 6)()
big = c.create_string_buffer(64 << 20)
print("copies", cu.cuMemcpyDtoH_v2(big, q, 64 << 20), cu.cuMemcpyDtoH_v2(w, Q(4096), 24), cu.cuMemcpyHtoD_v2(Q(0), w, 24),
      cu.cuMemsetD32_v2(Q(q.value + 1), 0, 4), cu.cuMemsetD8_v2(q, 7, 4096), cu.cuMemcpyDtoH_v2(w, q, 24), hex(w[5]))
print("frees", cu.cuMemFree_v2(Q(q.value + 16)), cu.cuMemFree_v2(Q(0)), cu.cuMemFree_v2(Q(4096)))
H = ".version 6.0\n.target sm_50\n.address_size 64\n"
K = H + """.visible .entry k(.param .u64 a)
{ .reg .b64 %d<4>; .reg .b32 %r<4>;
ld.param.u64 %d1, [a];
mov.u32 %r1, 5;
st.global.u32 [%d1], %r1;
bra L;
L: ret;
}
"""
def load(what, text):
    log, m = c.create_string_buffer(2048), P()
    code = cu.cuModuleLoadDataEx(N(m), text.encode(), 2, (I * 2)(5, 6), (P * 2)(c.cast(log, P), 2048))
    print("module", what, code, log.value)
    return m
load("nonsense", "nonsense")
load("empty", "")
load("version", K.replace("6.0", "99.0"))
load("target", K.replace("sm_50", "sm_120"))
load("higher target", K.replace("6.0", "8.7").replace("sm_50", "sm_100"))
load("version alone", ".version 6.0\n")
load("register", K.replace(".reg .b32 %r<4>;", ""))
load("label", K.replace("L: ret", "ret"))
load("instruction", K.replace("mov.u32", "mud.u32"))
m, f = load("good", K), P()
print("function", cu.cuModuleGetFunction(N(f), m, b"z"), cu.cuModuleGetFunction(N(f), m, b"k"))
def go(blocks, threads, at):
    return cu.cuLaunchKernel(f, blocks, 1, 1, threads, 1, 1, 0, None, (P * 1)(c.cast(c.pointer(at), P)), None)
print("launch", go(0, 32, q), go(1, 2048, q), go(1, 32, q), cu.cuCtxSynchronize(), cu.cuMemcpyDtoH_v2(w, q, 8), w[0])
s, e, t = P(), P(), c.c_float()
print("events", cu.cuEventCreate(N(s), 0), cu.cuEventCreate(N(e), 0), cu.cuEventElapsedTime(N(t), s, e), cu.cuEventRecord(s, None),
      cu.cuEventRecord(e, None), cu.cuEventSynchronize(e), cu.cuEventQuery(e), cu.cuEventElapsedTime(N(t), s, e), t.value >= 0)
z = P()
for name in [b"cuMemAlloc", b"cuNothing", b"cuMemAlloc_v2"]:
    print("address", cu.cuGetProcAddress_v2(name, N(z), 12000, Q(0), N(n)), n.value, z.value == c.cast(cu.cuMemAlloc_v2, P).value)
vid = c.CDLL("libnvcuvid.so.1")
def caps(a, b, depth):
    s = c.create_string_buffer(struct.pack("iiI", a, b, depth - 8).ljust(88, b"\0"), 88)
    return vid.cuvidGetDecoderCaps(s), *struct.unpack_from("BBHIIIHHBBH", s.raw, 24)
for a in range(12):
    for b in range(4):
        for depth in (8, 10, 12):
            if any(caps(a, b, depth)[:2]):
                print("decodes", a, b, depth, *caps(a, b, depth))
print("decodes not", caps(11, 1, 8), caps(4, 3, 8), caps(4, 1, 10))
print("decodes wrong", caps(99, 1, 8)[0], caps(4, 9, 8)[0], caps(8, 1, 9))
enc, u = c.CDLL("libnvidia-encode.so.1"), U()
print("nvenc", enc.NvEncodeAPIGetMaxSupportedVersion(N(u)), hex(u.value), enc.NvEncodeAPIGetMaxSupportedVersion(None))
word = lambda api, number: (api | number << 16 | 7 << 28) & 0xffffffff
l = c.create_string_buffer(2552)
for w in [0, word(0, 2), word(13, 1), word(13, 9), word(99, 2), word(0x0100000c, 2), word(13, 2)]:
    struct.pack_into("I", l, 0, w)
    print("list", hex(w), enc.NvEncodeAPICreateInstance(l))
g = struct.unpack_from("318Q", l.raw, 8)
print("functions", "".join("01"[f > 0] for f in g).rstrip("0"), enc.NvEncodeAPICreateInstance(None))
open_, destroy = c.CFUNCTYPE(I, P, P)(g[29]), c.CFUNCTYPE(I, P)(g[27])
for w, api, kind, at in [(word(13, 9), 13, 1, x), (word(13, 1), 5, 1, x), (word(13, 1), 99, 1, x), (word(13, 1), 13, 1, P()), (word(13, 1), 13, 9, x), (word(13, 1), 13, 1, x)]:
    p, h = c.create_string_buffer(1552), P()
    struct.pack_into("IIQQI", p, 0, w, kind, at.value or 0, 0, api)
    print("open", hex(w), api, kind, bool(at.value), open_(p, N(h)), bool(h.value))
print("null", open_(None, None), destroy(None))
print("fault", go(1, 32, Q(16)), cu.cuCtxSynchronize(), cu.cuMemAlloc_v2(N(r), 16), cu.cuMemFree_v2(q), cu.cuModuleUnload(m),
      cu.cuMemGetInfo_v2(N(q), N(r)), cu.cuCtxPopCurrent_v2(N(x)), cu.cuDevicePrimaryCtxRelease_v2(d))
