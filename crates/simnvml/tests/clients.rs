//! NVML's clients as their makers ship them: nvidia-ml-py, gpustat and nvitop of PyPI, nvtop and nvidia-smi of Debian. Each
//! test installs its client below the target directory, or prints SKIP and why.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::print_stdout, reason = "runs whole programs")]
// one macro call holds all fields
#![recursion_limit = "512"]

mod common;
#[path = "common/debian.rs"]
mod debian;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use common::Sim;
use debian::run;
use serde_json::{Value, json};
use simnvml::card::BOXES;
use simnvml::view::{Gpu, View};

/// As these tests were written against them.
const PYTHON: [&str; 3] = ["nvidia-ml-py==13.615.71", "gpustat==1.1.1", "nvitop==1.7.2"];

fn target(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// What could not be had is said, once for each test.
fn or_skip<T: Clone>(got: &Result<T, String>) -> Option<T> {
    match got {
        Ok(it) => Some(it.clone()),
        Err(why) => {
            println!("SKIP: {why}");
            None
        }
    }
}

/// The folder of a virtual environment's programs.
fn python() -> Option<PathBuf> {
    static PLACE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    or_skip(PLACE.get_or_init(|| {
        let venv = target("simnvml-venv");
        run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
        run(Command::new(venv.join("bin/pip")).args(["install", "-q", "--disable-pip-version-check"]).args(PYTHON))?;
        Ok(venv.join("bin"))
    }))
}

/// A program of a package of Debian 12.
fn debian(package: &str, program: &str) -> Result<PathBuf, String> {
    debian::unpacked(&target(&format!("simnvml-{package}")), "bookworm", package, program)
}

/// A client with the simulated library first in its loader's path.
fn client(program: &Path, sim: &Sim) -> Command {
    let mut command = Command::new(program);
    command.env("LD_LIBRARY_PATH", sim.folder()).env("TERM", "xterm").env("COLUMNS", "200").env("LC_ALL", "C.UTF-8");
    command
}

/// What nvidia-ml-py is to read of a GPU of this model.
fn expected(view: &View, gpu: &Gpu) -> Value {
    let card = &gpu.card;
    let has = |function| !view.lacks(function);
    let v2 = has("nvmlDeviceGetMemoryInfo_v2");
    let mig = gpu.mig_enabled();
    let ecc = card.ecc.as_ref();
    let parts: Vec<Value> = gpu
        .instances()
        .iter()
        .map(|it| {
            let profile = gpu.profile(it).expect("a profile");
            json!({
                "name": format!("{} MIG {}", card.name, it.profile), "uuid": gpu.mig_uuid(it), "gi": it.gi,
                "total": profile.memory_mib << 20, "sm": profile.sm,
            })
        })
        .collect();
    let pids: Vec<Value> =
        card.processes.iter().map(|it| json!([it.pid, it.memory_mib.map(|mib| mib << 20)])).collect();
    json!({
        "name": card.name, "uuid": gpu.uuid(), "serial": gpu.serial(), "bus": gpu.bus_id(),
        "device": (card.device << 16) | 0x10de, "subsystem": card.subsystem, "minor": gpu.index,
        "architecture": card.architecture, "compute": card.compute,
        "cores": has("nvmlDeviceGetNumGpuCores").then_some(card.cores),
        "total": card.memory_mib << 20, "used_with_reserved": (card.used_mib + card.reserved_mib) << 20,
        "reserved": v2.then_some(card.reserved_mib << 20), "used": v2.then_some(card.used_mib << 20),
        "bar1": card.bar1_mib << 20, "temperature": card.temperature.now,
        "temperature_v": has("nvmlDeviceGetTemperatureV").then_some(card.temperature.now),
        "memory_temperature": card.temperature.memory,
        "power": card.power.as_ref().and_then(|power| power.draw_mw),
        "limit": card.power.as_ref().map(|power| power.limit_mw), "energy": card.energy_mj,
        "fan": card.fans.first(), "fans": has("nvmlDeviceGetNumFans").then_some(card.fans.len()),
        "clock": card.clocks.now[1], "max_clock": card.clocks.max[2],
        "load": (!mig).then_some([card.load.gpu, card.load.memory]),
        "encoder": (!mig).then_some([card.load.encoder, 167_000]), "encoder_stats": [0, 0, 0], "capacity": 100,
        "ecc": ecc.map(|ecc| [u32::from(ecc.enabled); 2]),
        "ecc_total": ecc.filter(|ecc| ecc.enabled).map(|ecc| ecc.uncorrected),
        "remapped": card.remapped.as_ref().map(|_| [0, 0, 0, 0]), "retired": card.retired.as_ref().map(|_| json!([])),
        "link": [card.pcie.gen_now, card.pcie.width], "processes": pids,
        "nvlink": (card.nvlinks > 0).then_some(1), "persistence": u32::from(card.persistence),
        "mig_mode": card.mig.as_ref().map(|mig| [u32::from(mig.enabled); 2]), "mig": parts,
        "reasons": has("nvmlDeviceGetCurrentClocksEventReasons").then_some(card.reasons),
        "gsp": card.gsp.then_some(&view.driver.version),
        "near": if card.nvlinks > 0 { view.gpus.len() - 1 } else { 0 },
    })
}

#[test]
fn nvidia_ml_py_reads_the_model_of_every_box() {
    let Some(python) = python() else { return };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fields.py");
    let mut compared = 0;
    for (name, text) in BOXES {
        let (sim, view) = (Sim::new(name), View::new(text, "").expect("a view"));
        let output = client(&python.join("python"), &sim).arg(&script).output().expect("python runs");
        let read: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{name}: {}", said(&output)));
        assert!(String::from_utf8_lossy(&output.stderr).contains("(simulated)"), "{name} is not loud");
        assert_eq!(read["driver"], json!(view.driver.version));
        let gpus = read["gpus"].as_array().expect("GPUs");
        assert_eq!(gpus.len(), view.gpus.len(), "{name}");
        for (gpu, read) in view.gpus.iter().zip(gpus) {
            let expected = expected(&view, gpu);
            let fields = expected.as_object().expect("fields");
            for (field, value) in fields {
                assert_eq!(&read[field], value, "{name}, GPU {}: {field}", gpu.index);
                compared += 1;
            }
            assert_eq!(read.as_object().map(serde_json::Map::len), Some(fields.len()), "fields without an expectation");
        }
    }
    println!("{compared} fields of {} boxes compared", BOXES.len());
}

#[test]
fn the_environment_chooses_the_box_and_without_any_there_is_no_driver() {
    let Some(python) = python() else { return };
    let sim = Sim::new("gt1030");
    let name = "import pynvml as n; n.nvmlInit(); print(n.nvmlDeviceGetName(n.nvmlDeviceGetHandleByIndex(0)))";
    let asks = || {
        let mut command = client(&python.join("python"), &sim);
        command.args(["-c", name]);
        command
    };
    assert!(run(&mut asks()).is_ok_and(|text| text.contains("GT 1030")), "the box beside the library");
    assert!(run(asks().env("THRUWAY_SIM_NVML", "t4")).is_ok_and(|text| text.contains("Tesla T4")));
    let quiet = run(asks().env("THRUWAY_SIM_NVML", "t4").env("THRUWAY_SIM_QUIET", "1"));
    assert_eq!(quiet.as_deref(), Ok("Tesla T4\n"));
    std::fs::remove_file(sim.folder().join("thruway-sim/nvml.toml")).expect("removes");
    assert!(run(&mut asks()).is_err_and(|text| text.contains("DriverNotLoaded") && text.contains("no box")));
    let unknown = run(asks().env("THRUWAY_SIM_NVML", "gtx9999"));
    assert!(unknown.is_err_and(|text| text.contains("no box and no card is called \"gtx9999\"")));
}

#[test]
fn gpustat_shows_the_model() {
    let Some(python) = python() else { return };
    for name in ["gt1030", "gt1030-470", "a100-mig", "h100x8"] {
        let (sim, view) = (Sim::new(name), View::new(View::named(name).expect("a box"), "").expect("a view"));
        let output = client(&python.join("gpustat"), &sim).arg("--json").output().expect("gpustat runs");
        let read: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{name}: {}", said(&output)));
        let gpus = read["gpus"].as_array().expect("GPUs");
        assert_eq!(gpus.len(), view.gpus.len());
        for (gpu, read) in view.gpus.iter().zip(gpus) {
            assert_eq!(read["name"], json!(gpu.card.name));
            assert_eq!(read["temperature.gpu"], json!(gpu.card.temperature.now));
            assert_eq!(
                read["power.draw"],
                json!(gpu.card.power.as_ref().and_then(|power| power.draw_mw).map(|mw| mw / 1000)),
                "{name}"
            );
            assert_eq!(read["fan.speed"], json!(gpu.card.fans.first()), "{name}: N/A stays N/A");
            assert_eq!(read["memory.total"], json!(gpu.card.memory_mib));
        }
        let lost = view.gpus.len() - 1;
        sim.control(&format!("[[gpus]]\nindex = {lost}\nset = {{ temperature = {{ now = 99 }} }}\n"));
        let hot = run(client(&python.join("gpustat"), &sim).arg("--no-color")).expect("gpustat runs");
        assert!(hot.contains("99°C"), "{hot}");
    }
}

#[test]
fn nvitop_shows_the_model() {
    let Some(python) = python() else { return };
    let shows = |name: &str, control: &str, wanted: &[&str]| {
        let sim = Sim::new(name);
        sim.control(control);
        let text = run(client(&python.join("nvitop"), &sim).args(["-1", "--ascii"])).expect("nvitop runs");
        for wanted in wanted {
            assert!(text.contains(wanted), "{name}: no {wanted:?} in\n{text}");
        }
    };
    shows("gt1030", "", &["GeForce GT 1030", "35%   38C   P8      N/A / N/A", "2.00MiB / 2048MiB", "13.0"]);
    shows("gt1030-470", "", &["470.256.02", "11.4", "N/A / N/A", "61.00MiB / 2048MiB"]);
    let slices =
        ["3g.20gb @ GI/CI: 1/0", "2g.10gb @ GI/CI: 3/0", "1g.5gb @ GI/CI: 9/0", "1g.5gb @ GI/CI:10/0", "Enabled"];
    shows("a100-mig", "", &slices);
    shows(
        "h100x8",
        "",
        &["  7  H100 80GB HBM3", "74W / 700W", "2566MiB / 79.65GiB", "71%", "11327", "No Such Process"],
    );
    shows("h100x8", "[[gpus]]\nindex = 2\nlost = true\n", &["  1  H100 80GB HBM3", "  3  H100 80GB HBM3", "Lost"]);
}

#[test]
fn nvtop_shows_the_model() {
    let Some(nvtop) = or_skip(&debian("nvtop", "usr/bin/nvtop")) else { return };
    let Some(script) = or_skip(&run(Command::new("script").arg("--version")).map(|_| "script")) else { return };
    for (name, wanted) in [
        ("gt1030", ["GT 1030]", "PCIe GEN 1@ 4x", "38", "POW N/A / 30 W"]),
        ("a100-mig", ["A100-SXM4-40GB]", "N/A%", "51 / 400 W", "N/A]"]),
        ("h100x8", ["Device 7 [", "HBM3]", "73 / 700 W", "11327"]),
        ("gt1030-470", ["GT 1030]", "4x", "38", "POW N/A / 30 W"]),
    ] {
        let sim = Sim::new(name);
        let line = format!("stty cols 200 rows 80; exec timeout 120 '{}' -C -d 5", nvtop.display());
        let mut command = client(Path::new(script), &sim);
        command.args(["-qefc", &line, "/dev/null"]).env("THRUWAY_SIM_QUIET", "1");
        // its settings are not this test's user's
        command.env("HOME", sim.folder()).env("XDG_CONFIG_HOME", sim.folder());
        // it draws again and again: we look until all of it has been there, however slow the machine
        let screen = watched(command, |screen| wanted.iter().all(|wanted| screen.contains(wanted)));
        if screen.contains("error while loading shared libraries") {
            println!("SKIP: {screen}");
            return;
        }
        for wanted in wanted {
            assert!(screen.contains(wanted), "{name}: no {wanted:?} in\n{screen}");
        }
    }
}

/// What a program that never ends by itself has drawn when `enough` says so, or when it gave up.
fn watched(mut command: Command, enough: impl Fn(&str) -> bool) -> String {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    command.stdin(Stdio::null()).stdout(writer.try_clone().expect("its other end")).stderr(writer);
    let mut child = command.spawn().expect("script runs");
    drop(command);
    let mut reader = reader;
    let mut drawn = Vec::new();
    let mut piece = [0; 4096];
    while let Ok(read @ 1..) = reader.read(&mut piece) {
        drawn.extend_from_slice(&piece[..read]);
        if enough(&plain(&String::from_utf8_lossy(&drawn))) {
            break;
        }
    }
    let _ = child.kill();
    let _ = child.wait();
    plain(&String::from_utf8_lossy(&drawn))
}

/// A screen without its control sequences, which count as one blank, and blanks as one.
fn plain(screen: &str) -> String {
    let mut text = String::new();
    let mut rest = screen.chars();
    while let Some(c) = rest.next() {
        if c != '\u{1b}' {
            text.push(c);
            continue;
        }
        if rest.next() == Some('[') {
            rest.by_ref().find(char::is_ascii_alphabetic);
            text.push(' ');
        } else {
            rest.next();
        }
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A box under Debian's driver, since nvidia-smi refuses a library of another version.
fn under_535(name: &str) -> Sim {
    let text = View::named(name).expect("a box").replace("580.159.04", "535.261.03").replace("13000", "12020");
    Sim::of(&text, &[])
}

#[test]
fn debians_nvidia_smi_shows_the_model() {
    let Some(smi) = or_skip(&debian("nvidia-smi", "usr/lib/nvidia/current/nvidia-smi")) else { return };
    let version = run(Command::new(&smi).arg("--help")).unwrap_or_default();
    if !version.contains("535.261.03") {
        println!("SKIP: Debian's nvidia-smi is another one now: {}", version.lines().next().unwrap_or_default());
        return;
    }
    let asks = |sim: &Sim, arguments: &[&str], wanted: &[&str]| {
        let text = said(&client(&smi, sim).args(arguments).output().expect("nvidia-smi runs"));
        for wanted in wanted {
            assert!(text.contains(wanted), "{arguments:?}: no {wanted:?} in\n{text}");
        }
    };
    let small = under_535("gt1030");
    let row = "| 35%   38C    P8              N/A /  30W |      2MiB /  2048MiB |      0%      Default |";
    asks(&small, &[], &["Driver Version: 535.261.03   CUDA Version: 12.2", "NVIDIA GeForce GT 1030         Off", row]);
    asks(&small, &["-q"], &["86.08.0C.00.1A (simulated)", "Product Architecture                  : Pascal"]);
    let query = ["--query-gpu=name,power.draw,temperature.gpu,ecc.mode.current", "--format=csv,noheader"];
    asks(&small, &query, &["NVIDIA GeForce GT 1030, [N/A], 38, [N/A]"]);

    let cut = under_535("a100-mig");
    asks(&cut, &[], &["|  0    1   0   0  |               0MiB / 19968MiB  | 42    N/A |  3   0    2    0    0 |"]);
    asks(&cut, &["-L"], &["  MIG 1g.5gb      Device  3: (UUID: MIG-51a51a51-20b0-5000-8000-00000000000a)"]);
    asks(&cut, &["mig", "-lgi"], &["|   0  MIG 3g.20gb          9        1          4:4     |"]);
    asks(&cut, &["mig", "-lgip"], &["|   0  MIG 2g.10gb       14     0/3        9.62       No     28     1     0   |"]);

    let eight = under_535("h100x8");
    asks(&eight, &["-L"], &["GPU 7: NVIDIA H100 80GB HBM3 (UUID: GPU-51a51a51-2330-4000-8000-000000000007)"]);
    asks(&eight, &["-i", "7"], &["|   7  NVIDIA H100 80GB HBM3          On", "2566MiB / 81559MiB |     71%"]);
    asks(&eight, &["nvlink", "-s", "-i", "0"], &["Link 17: 26.562 GB/s"]);
    asks(
        &eight,
        &["-q", "-x", "-i", "0"],
        &["nvsmi_device_v12.dtd", "<gpu_temp>34 C</gpu_temp>", "<memory_temp>40 C</memory_temp>"],
    );
    eight.control("[[gpus]]\nindex = 2\nlost = true\n");
    asks(&eight, &[], &["GPU is lost"]);
    eight.control("[[gpus]]\nindex = 3\nset = { ecc = { uncorrected = 5 } }\n");
    asks(&eight, &["-i", "3", "--query-gpu=ecc.errors.uncorrected.volatile.total", "--format=csv,noheader"], &["5"]);
    eight.control("kernel = '580.159.04'");
    asks(&eight, &[], &["Failed to initialize NVML: Driver/library version mismatch"]);
}
