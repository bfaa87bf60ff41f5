//! The simulated libraries as strangers see them: the same program in Python ran on a real H100, and what that said is what
//! these say.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::print_stdout, reason = "runs programs")]

mod common;

use std::path::Path;
use std::process::Command;

use common::{built, driver};

/// What the real one said and what was said here.
type Pairs<'a> = Vec<(&'a str, &'a str)>;

fn python(folder: &Path, script: &[&str]) -> Option<(String, String)> {
    let command = Command::new("python3").args(script).env("LD_LIBRARY_PATH", folder).output();
    let Ok(output) = command else {
        println!("SKIP: no python3");
        return None;
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Some((text(&output.stdout), text(&output.stderr)))
}

#[test]
fn what_a_real_h100_said() {
    let folder = driver("h100");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/probe.py");
    let Some((said, errors)) = python(folder.path(), &[script.to_str().expect("UTF-8")]) else { return };
    assert!(errors.contains("libcuda (simulated): 1 device(s), none of them real"), "{errors}");
    let real = include_str!("fixtures/h100/probe.txt");
    let differs: Pairs<'_> = real.lines().zip(said.lines()).filter(|(real, said)| real != said).collect();
    // of its memory a part is the context's own, which is not played
    let (memory, other): (Pairs<'_>, Pairs<'_>) =
        differs.into_iter().partition(|(real, _)| real.starts_with("memory "));
    assert!(other.is_empty() && memory.len() <= 1, "{other:#?}\n{said}\n{errors}");
    assert_eq!(said.lines().count(), real.lines().count(), "{said}\n{errors}");
}

/// The names that a library shows in its dynamic symbol table, by readelf.
fn exports(name: &str) -> Option<Vec<String>> {
    let output = Command::new("readelf").args(["-W", "--dyn-syms"]).arg(built(name)).output();
    let Ok(output) = output else {
        println!("SKIP: no readelf");
        return None;
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let shown = |line: &&str| line.contains(" GLOBAL ") && !line.contains(" UND ");
    let name =
        |line: &str| line.split_whitespace().nth(7).map(|name| name.split('@').next().unwrap_or(name).to_owned());
    Some(text.lines().filter(shown).filter_map(name).collect())
}

#[test]
fn each_library_shows_its_own_names_only() {
    for (library, starts) in [("simcuda", "cu"), ("simcuvid", "cuvid"), ("simnvenc", "NvEncodeAPI")] {
        let Some(names) = exports(library) else { return };
        assert!(names.len() >= 3, "{names:?}");
        for name in &names {
            assert!(name.starts_with(starts) || name == "thruway_simulated", "{library}: {name}");
        }
    }
}

const SESSIONS: &str = r#"
import ctypes as c, struct, sys
cu, enc = c.CDLL("libcuda.so.1"), c.CDLL("libnvidia-encode.so.1")
d, x, l = c.c_int(), c.c_void_p(), c.create_string_buffer(2552)
assert cu.cuInit(0) == 0 and cu.cuDeviceGet(c.byref(d), 0) == 0 and cu.cuDevicePrimaryCtxRetain(c.byref(x), d) == 0
struct.pack_into("I", l, 0, 0x7002000d)
assert enc.NvEncodeAPICreateInstance(l) == 0
f = struct.unpack_from("318Q", l.raw, 8)
go, end = c.CFUNCTYPE(c.c_int, c.c_void_p, c.c_void_p)(f[29]), c.CFUNCTYPE(c.c_int, c.c_void_p)(f[27])
def session(api):
    p, h = c.create_string_buffer(1552), c.c_void_p()
    struct.pack_into("IIQQI", p, 0, 0x7001000d, 1, x.value, 0, api)
    return go(p, c.byref(h)), h
codes = [session(11) for _ in range(int(sys.argv[1]))]
print([code for code, _ in codes])
if len(sys.argv) > 2:
    import subprocess
    print("another", subprocess.run([sys.executable, "-c", sys.argv[2], "1"], capture_output=True, text=True).stdout.strip())
    print("destroyed", end(codes[0][1]), end(codes[0][1]), session(11)[0], session(99)[0])
"#;

#[test]
fn geforce_cards_share_a_limit_of_sessions() {
    for (name, limit) in [("rtx3090-535", 5), ("rtx3090", 8), ("gtx1660-510", 3)] {
        let folder = driver(name);
        let Some((said, errors)) = python(folder.path(), &["-c", SESSIONS, &(limit + 1).to_string(), SESSIONS]) else {
            return;
        };
        let codes: Vec<&str> = std::iter::repeat_n("0", limit).chain(["10"]).collect();
        let want = format!("[{}]\nanother [10]\ndestroyed 0 3 0 15\n", codes.join(", "));
        assert_eq!(said, want, "{name}: {errors}");
        // and all are free again when their process has ended
        let again = python(folder.path(), &["-c", SESSIONS, "1"]).expect("python was there");
        assert_eq!(again.0, "[0]\n", "{name}");
    }
    let folder = driver("t4");
    let (said, errors) = python(folder.path(), &["-c", SESSIONS, "20"]).expect("python was there");
    assert_eq!(said.matches('0').count(), 20, "a Tesla has no limit: {said}{errors}");
}

#[test]
fn faults_are_cudas() {
    let script = "import ctypes as c\ncu = c.CDLL('libcuda.so.1')\nd, x, q = c.c_int(), c.c_void_p(), c.c_uint64()\n\
                  print(cu.cuInit(0), cu.cuDeviceGet(c.byref(d), 0), cu.cuDevicePrimaryCtxRetain(c.byref(x), d), \
                  cu.cuCtxSetCurrent(x), cu.cuMemAlloc_v2(c.byref(q), 64 << 20))";
    for (name, control, want) in [
        ("t4", "", "0 0 0 0 0"),
        ("t4", "kernel = '570.1.1'", "803 3 3 3 3"),
        ("t4", "fail = { cuMemAlloc = 2 }", "0 0 0 0 2"),
        ("t4", "[[gpus]]\nindex = 0\ncuda_mib = 32", "0 0 0 0 2"),
        ("t4", "[[gpus]]\nindex = 0\nlost = true", "999 3 3 3 3"),
        ("t4", "fail = { cuInit = 100 }", "100 3 3 3 3"),
    ] {
        let folder = driver(name);
        std::fs::write(folder.path().join("thruway-sim/control.toml"), control).expect("writes");
        let Some((said, errors)) = python(folder.path(), &["-c", script]) else { return };
        assert_eq!(said.trim(), want, "{control}: {errors}");
    }
}

const PEERS: &str = r#"
import ctypes as c
cu = c.CDLL("libcuda.so.1")
n, a, b, p, q, t = c.c_int(), c.c_void_p(), c.c_void_p(), c.c_uint64(), c.c_uint64(), c.c_float()
can = lambda one, other: (cu.cuDeviceCanAccessPeer(c.byref(n), one, other), n.value)
def context(device, x, at):
    assert cu.cuDevicePrimaryCtxRetain(c.byref(x), device) == 0 and cu.cuCtxSetCurrent(x) == 0
    assert cu.cuMemAlloc_v2(c.byref(at), 4096) == 0 and cu.cuMemsetD8_v2(at, 7 + device, 4096) == 0
print("before", cu.cuInit(0), can(0, 1), can(1, 0), can(0, 0), can(0, 9), can(-1, 0))
context(1, b, q), context(0, a, p)
copy = lambda to, x, at, y, bytes: cu.cuMemcpyPeer(to, x, at, y, c.c_size_t(bytes))
print("enable", cu.cuCtxEnablePeerAccess(b, 1), cu.cuCtxEnablePeerAccess(a, 0), cu.cuCtxEnablePeerAccess(c.c_void_p(4096), 0),
      cu.cuCtxEnablePeerAccess(b, 0), cu.cuCtxEnablePeerAccess(b, 0))
w = (c.c_ubyte * 4096)()
print("copy", copy(q, b, p, a, 4097), copy(c.c_uint64(16), b, p, a, 16), copy(q, c.c_void_p(4096), p, a, 16), copy(q, b, p, a, 4096),
      cu.cuCtxSetCurrent(b), cu.cuMemcpyDtoH_v2(w, q, 4096), set(w))
print("disable", cu.cuCtxSetCurrent(a), cu.cuCtxDisablePeerAccess(b), cu.cuCtxDisablePeerAccess(b), copy(p, a, q, b, 16))
"#;

#[test]
fn cards_reach_each_other_with_cudas_codes() {
    let enabled = "before 0 (0, 1) (0, 1) (0, 0) (101, 0) (101, 0)\nenable 1 201 201 0 704\n";
    let copied = |what: &str| format!("copy 1 1 201 0 0 0 {what}\n");
    for (control, want) in [
        ("", format!("{enabled}{}disable 0 0 705 0\n", copied("{7}"))),
        // a bit of the third byte, and one behind the end
        (
            "[[links]]\nfrom = 0\nto = 1\nflips = [{ byte = 2, bit = 3 }, { byte = 4096, bit = 0 }]",
            format!("{enabled}{}disable 0 0 705 0\n", copied("{15, 7}")),
        ),
        // copies are made without it too
        (
            "[[links]]\nfrom = 0\nto = 1\npeer = false",
            format!(
                "before 0 (0, 0) (0, 1) (0, 0) (101, 0) (101, 0)\nenable 1 201 201 217 217\n{}disable 0 705 705 0\n",
                copied("{7}")
            ),
        ),
        ("fail = { cuMemcpyPeer = 220 }", format!("{enabled}copy 220 220 220 220 0 0 {{8}}\ndisable 0 0 705 220\n")),
    ] {
        let folder = driver("h100x2");
        std::fs::write(folder.path().join("thruway-sim/control.toml"), control).expect("writes");
        let Some((said, errors)) = python(folder.path(), &["-c", PEERS]) else { return };
        assert_eq!(said, want, "{control}: {errors}");
    }
}
