//! NVIDIA's driver: the effect of its installer, and what the loaded module shows.

use std::path::Path;

use machine::codecs::{CodecsReport, DecodeCap, GpuCodecs};
use machine::nvml::{NvmlGpu, NvmlReport};
use machine::{Answer, Machine as _, Question};
use model::{PciId, Seen};
use serde::{Deserialize, Serialize};
use simcards::view::View;
use simdriver::files::{LIBRARIES as LISTED, PROGRAMS};

use super::{PhysicsError, snapshot};
use crate::pci::Pci;
use crate::tree::Tree;

/// What was installed; kept beside the tree.
#[derive(Serialize, Deserialize)]
struct Installed {
    version: String,
    /// The kernel that the modules were built for.
    release: String,
}

/// The libraries that an installation brings for computing and video, of the one list of a driver's files.
const LIBRARIES: [&str; 10] = [
    "libnvidia-ml.so",
    "libcuda.so",
    "libnvcuvid.so",
    "libnvidia-encode.so",
    "libnvidia-ptxjitcompiler.so",
    "libnvidia-opencl.so",
    "libnvidia-cfg.so",
    "libnvidia-allocator.so",
    "libnvidia-fbc.so",
    "libnvidia-opticalflow.so",
];
const MODULES: [&str; 4] = ["nvidia", "nvidia_modeset", "nvidia_drm", "nvidia_uvm"];
const LIB: &str = "/usr/lib/x86_64-linux-gnu";

fn refused<T>(message: impl Into<String>) -> Result<T, PhysicsError> {
    Err(PhysicsError::Refused(message.into()))
}

/// `apt install PACKAGES…`, as far as a driver's installer looks: the package database, compilers, kernel headers.
pub fn install_packages(root: &Path, packages: &[&str]) -> Result<(), PhysicsError> {
    let tree = Tree::open(root)?;
    let mut status = tree.text("/var/lib/dpkg/status");
    let mut all: Vec<&str> = packages.to_vec();
    if packages.contains(&"build-essential") {
        all.extend(["gcc", "make", "libc6-dev"]);
    }
    for package in all {
        if !status.lines().any(|line| line.strip_prefix("Package: ") == Some(package)) {
            // The toolkit's version counts: old ones have known holes.
            let version = if package == "nvidia-container-toolkit" { "1.18.1-1" } else { "1-simulated" };
            status.push_str(&format!(
                "Package: {package}\nStatus: install ok installed\nArchitecture: amd64\nVersion: {version}\n\n"
            ));
        }
        match package {
            "gcc" | "make" => tree.write_mode(&format!("/usr/bin/{package}"), "simulated program\n", 0o755)?,
            "nvidia-container-toolkit" => programs(
                &tree,
                &["nvidia-container-runtime", "nvidia-container-runtime-hook", "nvidia-ctk", "nvidia-container-cli"],
            )?,
            "thruway" => programs(&tree, &["thruway", "thruway-runtime", "thruway-hook", "thruway-node"])?,
            _ => {
                if let Some(release) = package.strip_prefix("linux-headers-") {
                    headers(&tree, release)?;
                }
            }
        }
    }
    tree.write("/var/lib/dpkg/status", status)
}

fn programs(tree: &Tree, names: &[&str]) -> Result<(), PhysicsError> {
    names.iter().try_for_each(|name| tree.write_mode(&format!("/usr/bin/{name}"), "simulated program\n", 0o755))
}

/// The files that a distribution's packages bring, as far as anything here looks at them.
pub(crate) fn unpack_packages(tree: &Tree, packages: &[&str]) -> Result<(), PhysicsError> {
    for package in packages {
        if matches!(*package, "gcc" | "make") {
            tree.write_mode(&format!("/usr/bin/{package}"), "simulated program\n", 0o755)?;
        }
        let Some(release) = package.strip_prefix("linux-headers-") else { continue };
        if tree.has(&format!("/lib/modules/{release}")) {
            headers(tree, release)?;
        }
    }
    Ok(())
}

fn headers(tree: &Tree, release: &str) -> Result<(), PhysicsError> {
    tree.write(&format!("/usr/src/linux-headers-{release}/Makefile"), "# simulated kernel headers\n")?;
    tree.link(&format!("/lib/modules/{release}/build"), &format!("/usr/src/linux-headers-{release}"))
}

/// The driver's files, its modules built by DKMS where compiler and headers are there. Nothing is loaded: a boot is.
pub(crate) fn unpack_driver(tree: &Tree, version: &str, release: &str) -> Result<(), PhysicsError> {
    let builds = tree.has("/usr/bin/gcc") && tree.has(&format!("/lib/modules/{release}/build/Makefile"));
    if !builds {
        // As DKMS does: a word, and the package is configured all the same.
        return Ok(());
    }
    files(tree, version, release)?;
    tree.store("driver.json", &Installed { version: version.into(), release: release.into() })
}

/// Every path that [`unpack_driver`] writes.
pub(crate) fn driver_paths(version: &str, release: &str) -> Vec<String> {
    let mut all = vec![format!("/lib/modules/{release}/modules.dep")];
    for library in LISTED.iter().filter(|library| LIBRARIES.contains(&library.stem)) {
        all.extend([library.file(version), library.soname(version)].map(|name| format!("{LIB}/{name}")));
    }
    all.extend(PROGRAMS.map(|program| format!("/usr/bin/{program}")));
    let module = |name: &str| format!("/lib/modules/{release}/kernel/drivers/video/{name}.ko");
    all.extend(["nvidia", "nvidia-modeset", "nvidia-drm", "nvidia-uvm"].map(module));
    all
}

/// The branch's number, and whether it has modules for this device. Pascal and older ended with 580; Volta too.
fn supports(version: &str, id: PciId) -> Option<bool> {
    let branch: u32 = version.split('.').next()?.parse().ok()?;
    let oldest = match id.device {
        0x0fc0..=0x12ff => 340..=470,
        0x1340..=0x1dff => 381..=580,
        0x1e00..=0x2fff => 418..=u32::MAX,
        _ => return None,
    };
    Some(oldest.contains(&branch))
}

/// `NVIDIA-Linux-x86_64-VERSION.run`: refuses what the installer refuses; else the module is loaded and NVML answers.
pub fn install_driver(root: &Path, version: &str) -> Result<(), PhysicsError> {
    let tree = Tree::open(root)?;
    let release = tree.value("/proc/sys/kernel/osrelease").unwrap_or_default();
    for (tool, path) in [("cc", "/usr/bin/gcc"), ("make", "/usr/bin/make")] {
        if !tree.has(path) {
            return refused(format!(
                "ERROR: Unable to find the development tool `{tool}` in your path; please make sure that you have the \
                 package 'gcc' or 'make' installed."
            ));
        }
    }
    if tree.loaded("nouveau") {
        return refused(
            "ERROR: The Nouveau kernel driver is currently in use by your system.  This driver is incompatible with \
             the NVIDIA driver, and must be disabled before proceeding.",
        );
    }
    if !tree.has(&format!("/lib/modules/{release}/build/Makefile")) {
        return refused(
            "ERROR: Unable to find the kernel source tree for the currently running kernel.  Please make sure you \
             have installed the kernel source files for your kernel",
        );
    }
    let secure_boot = tree.root.read("/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c");
    if secure_boot.is().and_then(|bytes| bytes.get(4).copied()) == Some(1) {
        return refused("modprobe: ERROR: could not insert 'nvidia': Key was rejected by service");
    }
    let functions = tree.functions()?;
    let is_card = |f: &&Pci| f.id.vendor == PciId::NVIDIA && f.class.starts_with("03");
    let Some(card) = functions.iter().find(is_card) else {
        return refused("WARNING: You do not appear to have an NVIDIA GPU supported by this installation");
    };
    if supports(version, card.id) != Some(true) {
        return refused(format!(
            "NVRM: The NVIDIA GPU {} (PCI ID: {}) installed in this system is not supported by the NVIDIA {version} \
             driver release",
            card.bdf, card.id
        ));
    }
    files(&tree, version, &release)?;
    tree.store("driver.json", &Installed { version: version.into(), release })?;
    snapshot(&tree, None)?;
    tree.set_modules(&[], &MODULES.map(String::from))?;
    super::bind(&tree, |functions| {
        for function in functions.iter_mut().filter(|f| f.driver.is_empty() && is_card(&&**f)) {
            function.driver = "nvidia".into();
        }
    })
}

fn files(tree: &Tree, version: &str, release: &str) -> Result<(), PhysicsError> {
    for library in LISTED.iter().filter(|library| LIBRARIES.contains(&library.stem)) {
        let file = library.file(version);
        tree.write_mode(&format!("{LIB}/{file}"), "\u{7f}ELF simulated library\n", 0o755)?;
        tree.link(&format!("{LIB}/{}", library.soname(version)), &file)?;
    }
    for program in PROGRAMS {
        tree.write_mode(&format!("/usr/bin/{program}"), "\u{7f}ELF simulated program\n", 0o755)?;
    }
    let dep = format!("/lib/modules/{release}/modules.dep");
    let mut text = tree.text(&dep);
    if !text.contains("/nvidia.ko:") {
        let dir = "kernel/drivers/video";
        text.push_str(&format!(
            "{dir}/nvidia.ko:\n{dir}/nvidia-modeset.ko: {dir}/nvidia.ko\n{dir}/nvidia-drm.ko: {dir}/nvidia-modeset.ko \
             {dir}/nvidia.ko\n{dir}/nvidia-uvm.ko: {dir}/nvidia.ko\n"
        ));
        tree.write(&dep, text)?;
    }
    for module in ["nvidia", "nvidia-modeset", "nvidia-drm", "nvidia-uvm"] {
        tree.write(&format!("/lib/modules/{release}/kernel/drivers/video/{module}.ko"), "simulated module\n")?;
    }
    Ok(())
}

/// What the module shows while it holds a card, and that it shows nothing while it holds none. Only where the driver
/// was installed by [`install_driver`]; a box that came with one is left as it is.
pub(crate) fn settle(tree: &Tree, functions: &[Pci]) -> Result<(), PhysicsError> {
    let Some(installed) = tree.stored::<Installed>("driver.json") else { return Ok(()) };
    let version = &installed.version;
    let nvidia = |path: &str| path.starts_with("/dev/nvidia");
    let cards: Vec<&Pci> = functions.iter().filter(|function| function.driver == "nvidia").collect();
    if cards.is_empty() {
        tree.set_modules(&MODULES.map(String::from), &[])?;
        tree.remove("/proc/driver/nvidia")?;
        tree.set_devices(|path| !nvidia(path), &[])?;
        tree.set_answer(Question::Codecs, None)?;
        return tree.set_answer(Question::Nvml, None);
    }
    tree.set_modules(&[], &MODULES.map(String::from))?;
    tree.write("/sys/module/nvidia/version", format!("{version}\n"))?;
    tree.write(
        "/proc/driver/nvidia/version",
        format!(
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {version}  Tue Feb  8 04:42:21 UTC 2022\n\
             GCC version:  gcc version 9.3.0 (Ubuntu 9.3.0-17ubuntu1~20.04)\n"
        ),
    )?;
    let mut nodes = vec![
        ("/dev/nvidiactl".to_owned(), "char 195:255 0666".to_owned()),
        ("/dev/nvidia-modeset".to_owned(), "char 195:254 0666".to_owned()),
        ("/dev/nvidia-uvm".to_owned(), "char 510:0 0666".to_owned()),
        ("/dev/nvidia-uvm-tools".to_owned(), "char 510:1 0666".to_owned()),
    ];
    let mut gpus = Vec::new();
    for (at, card) in cards.iter().enumerate() {
        nodes.push((format!("/dev/nvidia{at}"), format!("char 195:{at} 0666")));
        let gpu = gpu(at as u32, card);
        let said = |text: &Seen<String>| text.get().cloned().unwrap_or_default();
        tree.write(
            &format!("/proc/driver/nvidia/gpus/{}/information", card.bdf),
            format!(
                "Model: \t\t {}\nIRQ:   \t\t {}\nGPU UUID: \t {}\nVideo BIOS: \t {}\nBus Type: \t PCIe\n\
                 DMA Size: \t 47 bits\nDMA Mask: \t 0x7fffffffffff\nBus Location: \t {}\nDevice Minor: \t {at}\n\
                 GPU Excluded:\t No\n",
                said(&gpu.name),
                30 + at,
                said(&gpu.uuid),
                said(&gpu.vbios),
                card.bdf
            ),
        )?;
        gpus.push(gpu);
    }
    tree.set_devices(|path| !nvidia(path), &nodes)?;
    devices(tree)?;
    let report = NvmlReport {
        driver_version: Seen::Is(version.clone()),
        nvml_version: Seen::Is(format!("{}.{version}", cuda(version).0)),
        cuda_version: Seen::Is(cuda(version)),
        confidential: Seen::Absent,
        gpus,
    };
    tree.set_answer(Question::Nvml, Some(&Answer::Nvml(Box::new(report))))?;
    let codecs = cards.iter().filter_map(|card| engines(card)).collect::<Vec<_>>();
    if codecs.len() == cards.len() {
        let report = CodecsReport { nvenc_api: Seen::Is((12, 1)), gpus: codecs };
        let json = serde_json::to_value(report).map_err(|error| PhysicsError::Refused(error.to_string()))?;
        tree.set_answer(Question::Codecs, Some(&Answer::Json(json)))?;
    }
    crate::cluster::kubelet(tree)
}

/// What a card's video engines answer, of the card model; none of a card that is not in it.
fn engines(card: &Pci) -> Option<GpuCodecs> {
    let model = (card.id == PciId::new(PciId::NVIDIA, 0x1d01)).then_some("gt1030")?;
    let text = format!("[driver]\nversion = \"0\"\ncuda = 0\n[[gpus]]\ncard = \"{model}\"\n");
    let gpu = View::new(&text, "").ok()?.gpus.into_iter().next()?;
    let video = &gpu.card.video;
    let mut decodes = Vec::new();
    for row in &video.decodes {
        for (chroma, depth) in row.chroma.iter().flat_map(|chroma| row.depths.iter().map(move |depth| (chroma, *depth)))
        {
            let [max_width, max_height] = row.max;
            let [min_width, min_height] = row.min;
            decodes.push(DecodeCap {
                codec: row.codec.clone(),
                chroma: chroma.clone(),
                depth,
                engines: row.engines.unwrap_or(video.nvdec),
                max_width,
                max_height,
                min_width,
                min_height,
                max_macroblocks: row.macroblocks.unwrap_or(max_width / 16 * max_height.div_ceil(16)),
            });
        }
    }
    // the model's only card here has no encoder, which the driver says by refusing a session
    let encodes = if video.nvenc == 0 { Seen::Absent } else { return None };
    Some(GpuCodecs {
        bus_id: card.bdf.to_string(),
        name: Seen::Is(gpu.card.name.clone()),
        decodes: Seen::Is(decodes),
        encodes,
    })
}

/// systemd-modules-load: what modules-load.d lists is loaded, where this kernel has it. With nvidia-uvm come its major and,
/// by the rule that the distributions' packages bring for udev, its nodes.
pub(crate) fn load_listed(tree: &Tree) -> Result<(), PhysicsError> {
    let release = tree.value("/proc/sys/kernel/osrelease").unwrap_or_default();
    let dep = tree.text(&format!("/lib/modules/{release}/modules.dep")).replace('-', "_");
    let texts = tree.texts("/etc/modules-load.d", ".conf");
    let lines = texts.iter().flat_map(|(_, text)| text.lines()).map(|line| line.trim().replace('-', "_"));
    let listed: Vec<String> = lines.filter(|name| dep.contains(&format!("/{name}.ko"))).collect();
    tree.set_modules(&[], &listed)?;
    if listed.iter().any(|name| name == "nvidia_uvm") && tree.loaded("nvidia") {
        devices(tree)?;
        let node = |path: &str, minor: u32| (path.to_owned(), format!("char 510:{minor} 0666"));
        let nodes = [node("/dev/nvidia-uvm", 0), node("/dev/nvidia-uvm-tools", 1)];
        tree.set_devices(|_| true, &nodes)?;
    }
    Ok(())
}

/// The majors that the modules registered.
fn devices(tree: &Tree) -> Result<(), PhysicsError> {
    let text = tree.text("/proc/devices");
    let mut lines: Vec<&str> = text.lines().filter(|line| !line.contains("nvidia")).collect();
    let at = lines.iter().position(|line| line.starts_with("226")).unwrap_or(lines.len());
    lines.insert(at, "195 nvidia");
    let at = lines.iter().position(|line| line.is_empty()).unwrap_or(lines.len());
    lines.insert(at, "510 nvidia-uvm");
    tree.write("/proc/devices", lines.join("\n") + "\n")
}

/// The CUDA version that a driver branch brings.
fn cuda(version: &str) -> (u32, u32) {
    let branch: u32 = version.split('.').next().and_then(|branch| branch.parse().ok()).unwrap_or(0);
    match branch {
        ..=469 => (11, 2),
        470..=494 => (11, 4),
        495..=509 => (11, 5),
        510..=514 => (11, 6),
        515..=519 => (11, 7),
        520..=524 => (11, 8),
        525..=529 => (12, 0),
        530..=534 => (12, 1),
        535..=544 => (12, 2),
        545..=549 => (12, 3),
        550..=559 => (12, 4),
        560..=564 => (12, 6),
        565..=569 => (12, 7),
        570..=574 => (12, 8),
        575..=579 => (12, 9),
        580..=589 => (13, 0),
        _ => (13, 1),
    }
}

const MIB: u64 = 1 << 20;

/// The card, idle. The numbers of the GT 1030 are those that its owner wrote down.
fn gpu(index: u32, card: &Pci) -> NvmlGpu {
    let mut gpu = NvmlGpu::blank(index);
    let word = |id: PciId| u32::from(id.device) << 16 | u32::from(id.vendor);
    gpu.bus_id = Seen::Is(format!("0000{}", card.bdf.to_string().to_uppercase()));
    gpu.pci_device_id = Seen::Is(word(card.id));
    gpu.pci_subsystem_id = card.subsystem.map(word).into();
    gpu.uuid = Seen::Is(format!("GPU-{index:08x}-aaaa-4bbb-8ccc-dddddddddddd"));
    gpu.minor = Seen::Is(index);
    gpu.brand = Seen::Is("GeForce".into());
    gpu.processes = Seen::Is(Vec::new());
    if card.id != PciId::new(PciId::NVIDIA, 0x1d01) {
        gpu.name = Seen::Is(format!("NVIDIA device {:04x}", card.id.device));
        return gpu;
    }
    gpu.name = Seen::Is("NVIDIA GeForce GT 1030".into());
    gpu.vbios = Seen::Is("86.08.46.00.37".into());
    gpu.architecture = Seen::Is("Pascal".into());
    gpu.compute_capability = Seen::Is((6, 1));
    gpu.virtualization = Seen::Is("Pass-Through".into());
    gpu.memory_total = Seen::Is(2048 * MIB);
    gpu.memory_used = Seen::Is(0);
    gpu.memory_free = Seen::Is(2048 * MIB);
    gpu.bar1_total = Seen::Is(256 * MIB);
    gpu.utilization_gpu = Seen::Is(0);
    gpu.utilization_memory = Seen::Is(0);
    gpu.utilization_decoder = Seen::Is(0);
    gpu.temperature = Seen::Is(33);
    gpu.fan = Seen::Is(38);
    // power_draw stays absent: this card does not report it ("N/A of 30 W").
    gpu.power_limit = Seen::Is(30_000);
    gpu.pstate = Seen::Is(0);
    gpu.persistence = Seen::Is(false);
    gpu.display_active = Seen::Is(false);
    gpu.compute_mode = Seen::Is("Default".into());
    gpu.clock_graphics = Seen::Is(1227);
    gpu.clock_sm = Seen::Is(1227);
    gpu.clock_memory = Seen::Is(3003);
    gpu.clock_video = Seen::Is(1100);
    gpu.pcie_gen_current = Seen::Is(1);
    gpu.pcie_gen_max = Seen::Is(3);
    gpu.pcie_width_current = Seen::Is(4);
    gpu.pcie_width_max = Seen::Is(4);
    gpu
}
