//! Machines on which NVIDIA's driver is not what it is elsewhere: a Linux below Windows, and a Jetson.
//!
//! Sources: the files of a driver store as NVIDIA's container toolkit looks for them; NVIDIA's lists for Tegra (l4t.csv) by their form.

use std::io::Result;
use std::path::Path;

use crate::elf::{Class, stub};
use crate::root::{Tree, node};

/// WSL: /dev/dxg, a driver store of Windows' below /usr/lib/wsl. False: the node could not be made.
pub fn lay_wsl(folder: &Path) -> Result<bool> {
    let tree = Tree { root: folder.to_owned() };
    let store = "/usr/lib/wsl/drivers/nv_dispi.inf_amd64_0123456789abcdef";
    tree.write("/SIMULATED", "A simulated driver store, laid out by thruway: no file here is NVIDIA's.\n", 0o644)?;
    for (name, soname) in [
        ("libcuda.so.1.1", "libcuda.so.1"),
        ("libcuda_loader.so", "libcuda_loader.so"),
        ("libnvidia-ptxjitcompiler.so.1", "libnvidia-ptxjitcompiler.so.1"),
        ("libnvidia-ml.so.1", "libnvidia-ml.so.1"),
        ("libnvidia-ml_loader.so", "libnvidia-ml_loader.so"),
        ("libnvdxgdmal.so.1", "libnvdxgdmal.so.1"),
        ("libnvwgf2umx.so", "libnvwgf2umx.so"),
    ] {
        tree.write(&format!("{store}/{name}"), stub(soname, Class::Wide), 0o755)?;
    }
    for name in ["nvcubins.bin", "nvidia-smi", "nvngx.dll", "nv_dispi.inf", "nvdispi.cat"] {
        tree.write(&format!("{store}/{name}"), "simulated\n", 0o755)?;
    }
    // another maker's
    tree.write(
        "/usr/lib/wsl/drivers/iigd_dch.inf_amd64_0123456789abcdef/libigc.so",
        stub("libigc.so", Class::Wide),
        0o755,
    )?;
    tree.write("/usr/lib/wsl/lib/libdxcore.so", stub("libdxcore.so", Class::Wide), 0o755)?;
    node(&tree, "/dev/dxg", (10, 127), 0o666, 0)
}

/// A Jetson with NVIDIA's lists. False: the nodes could not be made.
pub fn lay_tegra(folder: &Path) -> Result<bool> {
    let tree = Tree { root: folder.to_owned() };
    let lists = "/etc/nvidia-container-runtime/host-files-for-container.d";
    tree.write("/SIMULATED", "A simulated Jetson, laid out by thruway: no file here is NVIDIA's.\n", 0o644)?;
    tree.write("/etc/nv_tegra_release", "# R36 (release), REVISION: 4.0 (simulated)\n", 0o644)?;
    tree.write("/sys/devices/soc0/family", "Tegra\n", 0o444)?;
    let devices = "dev, /dev/nvhost-ctrl-gpu\ndev, /dev/nvmap\ndev, /dev/nvhost-as-*\ndev, /dev/not-there\n";
    tree.write(&format!("{lists}/devices.csv"), devices, 0o644)?;
    let drivers = "# libraries\nlib, /usr/lib/aarch64-linux-gnu/nvidia/libcuda.so.1.1\n\
                   sym, /usr/lib/aarch64-linux-gnu/nvidia/libcuda.so\n\
                   lib, /usr/lib/aarch64-linux-gnu/nvidia/libnvrm_*.so\ndir, /usr/src/jetson_multimedia_api\n";
    tree.write(&format!("{lists}/drivers.csv"), drivers, 0o644)?;
    tree.write(&format!("{lists}/l4t.csv"), "lib, /lib/firmware/gv11b/fecs.bin\nnonsense\n", 0o644)?;
    let libraries = "/usr/lib/aarch64-linux-gnu/nvidia";
    tree.write(&format!("{libraries}/libcuda.so.1.1"), stub("libcuda.so.1", Class::Wide), 0o755)?;
    tree.link(&format!("{libraries}/libcuda.so"), "libcuda.so.1.1")?;
    for name in ["libnvrm_gpu.so", "libnvrm_mem.so"] {
        tree.write(&format!("{libraries}/{name}"), stub(name, Class::Wide), 0o755)?;
    }
    tree.write("/usr/src/jetson_multimedia_api/README", "simulated\n", 0o644)?;
    tree.write("/lib/firmware/gv11b/fecs.bin", "simulated\n", 0o644)?;
    let mut made = true;
    for (minor, name) in ["nvhost-ctrl-gpu", "nvmap", "nvhost-as-gpu"].iter().enumerate() {
        made &= node(&tree, &format!("/dev/{name}"), (505, minor as u32), 0o660, 44)?;
    }
    Ok(made)
}
