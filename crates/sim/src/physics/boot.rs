//! A boot: loader, command line, IOMMU, initramfs, modules, drivers.

use std::path::Path;

use machine::MachineExt as _;

use super::initrd::INITRD;
use super::modprobe::{Conf, name};
use super::udev::{self, Override};
use super::{PhysicsError, loader, settle};
use crate::pci::Pci;
use crate::tree::Tree;

/// What the boot did, for whoever tells the story.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Boot {
    /// The command line that the kernel got, trimmed.
    pub cmdline: String,
    pub iommu: bool,
    /// What stood on the console: modules that were not found, drivers that found no device.
    pub messages: Vec<String>,
}

/// Drivers that udev loads already in the initramfs (MODULES=most); sound, NVIDIA's own and the UCSI bus come later.
const EARLY: [&str; 9] = ["nouveau", "i915", "amdgpu", "radeon", "ast", "xhci_hcd", "ahci", "nvme", "r8169"];

/// The module that brings a driver.
pub(crate) fn module_of(driver: &str) -> String {
    match driver {
        "xhci_hcd" => "xhci_pci".into(),
        "nvidia-gpu" => "i2c_nvidia_gpu".into(),
        "piix4_smbus" => "i2c_piix4".into(),
        other => name(other),
    }
}

/// Drivers of GPUs, their sound and USB functions, and pass-through: what a boot may bind otherwise than the last one.
fn contested(driver: &str) -> bool {
    matches!(driver, "nouveau" | "nvidia" | "nvidia-gpu" | "snd_hda_intel" | "xhci_hcd" | "vfio-pci")
}

struct Kernel {
    dep: String,
    builtin: String,
    cmdline: String,
}

impl Kernel {
    fn read(tree: &Tree, cmdline: &str) -> Kernel {
        let release = tree.value("/proc/sys/kernel/osrelease").unwrap_or_default();
        let dir = format!("/lib/modules/{release}");
        let file = |file: &str| tree.text(&format!("{dir}/{file}"));
        Kernel { dep: file("modules.dep"), builtin: file("modules.builtin"), cmdline: cmdline.into() }
    }

    fn listed(text: &str, module: &str) -> bool {
        let modules = text.lines().filter_map(|line| line.split(':').next()?.rsplit('/').next());
        modules.map(name).any(|known| known == module)
    }

    fn has_builtin(&self, module: &str) -> bool {
        Self::listed(&self.builtin, module)
    }

    fn has(&self, module: &str) -> bool {
        Self::listed(&self.dep, module) || self.has_builtin(module)
    }

    fn token(&self, name: &str) -> Option<&str> {
        let values = self.cmdline.split_whitespace().filter_map(|token| token.split_once('='));
        values.filter(|(key, _)| *key == name).map(|(_, value)| value).next_back()
    }
}

/// Starts the machine again. Everything below is decided by the files as they are now, and by nothing else.
pub fn boot(root: &Path) -> Result<Boot, PhysicsError> {
    let tree = Tree::open(root)?;
    let mut boot = Boot { cmdline: loader::next_cmdline(&tree).trim().to_owned(), ..Boot::default() };
    tree.write("/proc/cmdline", format!("{}\n", boot.cmdline))?;
    let count = tree.stored::<u64>("boots").unwrap_or(0) + 1;
    tree.store("boots", &count)?;
    tree.write("/proc/sys/kernel/random/boot_id", format!("0000b007-0000-4000-8000-{count:012x}\n"))?;
    super::disks::appear(&tree)?;
    super::vm::forget(&tree)?;
    super::handover::forget(&tree)?;
    let kernel = Kernel::read(&tree, &boot.cmdline);
    boot.iommu = iommu(&tree, &kernel)?;
    let mut functions = tree.hardware()?.pci;
    if boot.iommu && functions.iter().all(|function| function.group.is_none()) {
        number_groups(&mut functions);
    }
    for function in &mut functions {
        function.driver_override = None;
        if !boot.iommu {
            function.group = None;
        }
        if contested(&function.driver) || function.driver.is_empty() {
            function.driver = String::new();
        }
    }
    let loaded = drivers(&tree, &kernel, &mut functions, &mut boot.messages);
    let identity = boot.iommu && kernel.token("iommu") == Some("pt");
    tree.set_functions(&functions, identity)?;
    modules(&tree, &kernel, &functions, &loaded)?;
    after_bind(&tree, &functions)?;
    Ok(boot)
}

/// One group for each slot: what a board without multi-function surprises makes.
fn number_groups(functions: &mut [Pci]) {
    let mut slots: Vec<String> = Vec::new();
    for function in functions.iter_mut() {
        let slot = function.bdf.slot();
        let at = slots.iter().position(|known| *known == slot).unwrap_or_else(|| {
            slots.push(slot);
            slots.len() - 1
        });
        function.group = Some(at as u32);
    }
}

/// Whether the kernel runs the IOMMU: the firmware's table, the command line, and for Intel the kernel's default.
fn iommu(tree: &Tree, kernel: &Kernel) -> Result<bool, PhysicsError> {
    let table = |table: &str| tree.has(&format!("/sys/firmware/acpi/tables/{table}"));
    let off = kernel.token("iommu") == Some("off");
    let intel = || {
        let release = tree.value("/proc/sys/kernel/osrelease").unwrap_or_default();
        let config = tree.text(&format!("/boot/config-{release}"));
        let tokens = kernel.token("intel_iommu").unwrap_or_default();
        let on = config.lines().any(|line| line == "CONFIG_INTEL_IOMMU_DEFAULT_ON=y");
        !tokens.split(',').any(|t| t == "off") && (on || tokens.split(',').any(|t| t == "on"))
    };
    let (on, unit) = if table("IVRS") {
        (!off && kernel.token("amd_iommu") != Some("off"), "ivhd0")
    } else if table("DMAR") {
        (!off && intel(), "dmar0")
    } else {
        (false, "")
    };
    let units = tree.root.names("/sys/class/iommu");
    if !on {
        for unit in units {
            tree.remove(&format!("/sys/class/iommu/{unit}"))?;
        }
        tree.mkdir("/sys/class/iommu")?;
    } else if units.is_empty() {
        let links = tree.hardware()?.links;
        let known = links.iter().find(|(path, _)| path.starts_with("/sys/class/iommu/"));
        if let Some((path, target)) = known {
            tree.link(path, target)?;
        } else {
            let (dir, attributes): (_, [(&str, &str); 2]) = match unit {
                "ivhd0" => ("amd-iommu", [("cap", "190b640f\n"), ("features", "f77ef22294ada\n")]),
                // 39-bit addresses; extended capabilities with bit 3, interrupt remapping
                _ => ("intel-iommu", [("cap", "d2008c40660462\n"), ("ecap", "f050da\n")]),
            };
            for (file, text) in attributes {
                tree.write(&format!("/sys/devices/virtual/iommu/{unit}/{dir}/{file}"), text)?;
            }
            tree.link(&format!("/sys/class/iommu/{unit}"), &format!("../../devices/virtual/iommu/{unit}"))?;
        }
    }
    Ok(on)
}

/// The race for the functions, in the order of a boot. Returns the modules that were loaded on the way.
fn drivers(tree: &Tree, kernel: &Kernel, functions: &mut [Pci], messages: &mut Vec<String>) -> Vec<String> {
    let mut race = Race { tree, kernel, loaded: Vec::new(), without: None, place: "", recipe: String::new(), messages };
    // 1. Built-in drivers bind before any user space runs.
    if kernel.has_builtin("vfio_pci") {
        race.load("vfio_pci", &Conf::read(tree, "/nonexistent", &kernel.cmdline), functions);
    }
    for function in functions.iter_mut() {
        let native = function.native();
        if function.driver.is_empty() && (native == "pcieport" || kernel.has_builtin(&module_of(&native))) {
            function.driver = native;
        }
    }
    // 2. The initramfs: scripts, udev with the rules that a hook copied, then the modules listed.
    let conf = Conf::read(tree, INITRD, &kernel.cmdline);
    let listed = tree.text(&format!("{INITRD}/etc/initramfs-tools/modules"));
    let recipe = ["/etc/dracut.conf", "/etc/mkinitcpio.conf"].map(|file| tree.text(&format!("{INITRD}{file}")));
    let mut recipe = recipe.join("\n");
    for dir in ["/etc/initramfs-tools/hooks", "/etc/dracut.conf.d", "/etc/mkinitcpio.conf.d"] {
        recipe.extend(tree.texts(&format!("{INITRD}{dir}"), "").into_iter().map(|(_, text)| text + "\n"));
    }
    // MODULES=most takes storage, network and display drivers along; pass-through only when it is asked for.
    let asks = |line: &str| !line.trim_start().starts_with('#') && line.replace('-', "_").contains("vfio_pci");
    race.without = if listed.lines().chain(recipe.lines()).any(asks) { None } else { Some("vfio_pci") };
    let (first, later) = udev::forced(&recipe);
    race.place = INITRD;
    race.recipe.clone_from(&recipe);
    for module in first {
        race.load(&module, &conf, functions);
    }
    let rules = tree.texts(&format!("{INITRD}/etc/udev/rules.d"), ".rules");
    let copied = rules.into_iter().filter(|(file, _)| recipe.contains(file.as_str()));
    let scripts = tree.texts(&format!("{INITRD}/etc/initramfs-tools/scripts/init-top"), "");
    let mut early: Vec<Override> = scripts.iter().flat_map(|(_, text)| udev::script(text)).collect();
    early.extend(copied.flat_map(|(_, text)| udev::rules(&text)));
    race.overrides(&early, &conf, functions);
    // booster takes no display driver along unless its configuration names one, and runs nothing of modprobe.d.
    let booster = tree.has("/usr/bin/booster");
    let display = |driver: &str| matches!(driver, "nouveau" | "i915" | "amdgpu" | "radeon" | "ast");
    race.coldplug(&conf, functions, |driver| EARLY.contains(&driver) && !(booster && display(driver)));
    for module in race.listed(&listed).into_iter().chain(later) {
        race.load(&module, &conf, functions);
    }
    let scripts = tree.texts(&format!("{INITRD}/etc/initramfs-tools/scripts/init-premount"), "");
    let late: Vec<Override> = scripts.iter().flat_map(|(_, text)| udev::script(text)).collect();
    race.overrides(&late, &conf, functions);
    race.without = None;
    race.place = "";
    // 3. The root file system: modules-load, then udev's second coldplug.
    let conf = Conf::read(tree, "", &kernel.cmdline);
    let mut lists = vec![tree.text("/etc/modules")];
    for dir in ["/etc/modules-load.d", "/usr/lib/modules-load.d"] {
        lists.extend(tree.texts(dir, ".conf").into_iter().map(|(_, text)| text));
    }
    for list in lists {
        for module in race.listed(&list) {
            race.load(&module, &conf, functions);
        }
    }
    let rules = tree.texts("/etc/udev/rules.d", ".rules");
    let rules: Vec<Override> = rules.iter().flat_map(|(_, text)| udev::rules(text)).collect();
    race.overrides(&rules, &conf, functions);
    race.coldplug(&conf, functions, |_| true);
    race.loaded
}

struct Race<'a> {
    tree: &'a Tree,
    kernel: &'a Kernel,
    loaded: Vec<String>,
    /// A module that this stage's file system does not hold.
    without: Option<&'static str>,
    /// Where this stage's files lie: the initramfs, or the root file system ("").
    place: &'static str,
    /// What the initramfs was told to carry.
    recipe: String,
    messages: &'a mut Vec<String>,
}

impl Race<'_> {
    fn listed(&self, text: &str) -> Vec<String> {
        let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
        lines.filter_map(|line| line.split_whitespace().next()).map(name).collect()
    }

    /// Loads a module by name, its soft dependencies first; a driver that comes so takes what it may.
    fn load(&mut self, module: &str, conf: &Conf, functions: &mut [Pci]) {
        if self.loaded.iter().any(|m| m == module) || self.without == Some(module) || !conf.loads(module) {
            return;
        }
        if !self.kernel.has(module) {
            let release = self.tree.value("/proc/sys/kernel/osrelease").unwrap_or_default();
            let message = format!("modprobe: FATAL: Module {module} not found in directory /lib/modules/{release}");
            if !self.messages.contains(&message) {
                self.messages.push(message);
            }
            return;
        }
        for before in conf.before(module).map(str::to_owned).collect::<Vec<_>>() {
            if before != module {
                self.load(&before, conf, functions);
            }
        }
        if let Some(script) = conf.script(module) {
            let carried = self.place.is_empty() || self.recipe.contains(script);
            let text = self.tree.text(&format!("{}{script}", self.place));
            if !carried || text.is_empty() {
                // The install command's first half fails; a `;` lets the second half, modprobe itself, go on.
                self.messages.push(format!("sh: {script}: No such file or directory"));
            }
            for wish in udev::script(&text).into_iter().filter(|_| carried) {
                for function in functions.iter_mut().filter(|f| wish.matches(f) && f.driver.is_empty()) {
                    function.driver_override = Some(wish.driver.clone());
                }
            }
        }
        self.loaded.push(module.into());
        if module == "vfio_pci" {
            // A built-in vfio-pci has its parameters from the command line alone, which `conf` then is.
            let ids = conf.option("vfio_pci", "ids").unwrap_or_default().to_ascii_lowercase();
            for function in functions.iter_mut().filter(|function| function.driver.is_empty()) {
                let by_id = ids.split(',').any(|id| id == function.id.to_string());
                let wanted = function.driver_override.as_deref().map_or(by_id, |driver| driver == "vfio-pci");
                if wanted {
                    function.driver = "vfio-pci".into();
                }
            }
        } else {
            self.take(module, conf, functions);
        }
    }

    /// A native driver that was loaded takes the functions that are its own and free.
    fn take(&self, module: &str, conf: &Conf, functions: &mut [Pci]) {
        if module == "nouveau" {
            let modeset = conf.option("nouveau", "modeset");
            let nomodeset = self.kernel.cmdline.split_whitespace().any(|token| token == "nomodeset");
            if modeset == Some("0") || nomodeset && modeset != Some("1") {
                return;
            }
        }
        for function in functions.iter_mut().filter(|function| function.driver.is_empty()) {
            let native = self.native(function);
            if module_of(&native) == module && function.driver_override.as_deref().is_none_or(|d| d == native) {
                function.driver = native;
            }
        }
    }

    /// NVIDIA's own driver, where it is installed and nouveau does not come first, is a display function's choice too.
    fn native(&self, function: &Pci) -> String {
        let native = function.native();
        let installed = self.loaded.iter().any(|m| m == "nvidia") && !self.loaded.iter().any(|m| m == "nouveau");
        if native == "nouveau" && installed { "nvidia".into() } else { native }
    }

    fn overrides(&mut self, overrides: &[Override], conf: &Conf, functions: &mut [Pci]) {
        // A script loads before it probes; a rule's RUN comes after its assignments.
        let loads: Vec<String> = overrides.iter().flat_map(|wish| wish.loads.iter().cloned()).collect();
        if overrides.iter().any(|wish| wish.probes) {
            loads.iter().for_each(|module| self.load(module, conf, functions));
        }
        for wish in overrides {
            for function in functions.iter_mut().filter(|function| wish.matches(function)) {
                function.driver_override = Some(wish.driver.clone());
                if wish.probes && function.driver != wish.driver {
                    function.driver = String::new();
                    if wish.driver == "vfio-pci" && self.loaded.iter().any(|m| m == "vfio_pci") {
                        function.driver = wish.driver.clone();
                    }
                }
            }
        }
        for module in loads {
            self.load(&module, conf, functions);
        }
    }

    /// udev loads the driver of every function that has none, if modprobe.d lets it.
    fn coldplug(&mut self, conf: &Conf, functions: &mut [Pci], stage: impl Fn(&str) -> bool) {
        // udev tries by modalias, whether or not a driver holds the function already.
        let mut wanted: Vec<String> = functions.iter().map(Pci::native).filter(|driver| !driver.is_empty()).collect();
        if functions.iter().any(|function| function.native() == "nouveau") && self.kernel.has("nvidia") {
            wanted.push("nvidia".into());
        }
        wanted.dedup();
        for driver in wanted {
            let module = module_of(&driver);
            if stage(&driver) && conf.autoloads(&module) && self.kernel.has(&module) {
                if self.loaded.contains(&module) {
                    self.take(&module, conf, functions);
                } else {
                    self.load(&module, conf, functions);
                }
            }
        }
        // Drivers whose module this box does not list are nobody's contest: they hold what they held.
        for function in functions.iter_mut().filter(|function| function.driver.is_empty()) {
            let native = function.native();
            let listed = self.kernel.has(&module_of(&native));
            if stage(&native)
                && !listed
                && native != "nvidia"
                && function.driver_override.is_none()
                && conf.autoloads(&module_of(&native))
            {
                function.driver = native;
            }
        }
    }
}

/// /proc/modules, /sys/module and the parameters that checks read.
fn modules(tree: &Tree, kernel: &Kernel, functions: &[Pci], loaded: &[String]) -> Result<(), PhysicsError> {
    let family = ["nouveau", "nvidia", "nvidia_uvm", "nvidia_modeset", "nvidia_drm", "snd_hda_intel", "i2c_nvidia_gpu"];
    let vfio = ["vfio", "vfio_pci", "vfio_pci_core", "vfio_iommu_type1", "vfio_virqfd"];
    let gone: Vec<String> = family.iter().chain(&vfio).map(|module| (*module).to_owned()).collect();
    let mut now: Vec<String> = Vec::new();
    for module in loaded.iter().filter(|module| !kernel.has_builtin(module)) {
        now.push(module.clone());
    }
    now.extend(functions.iter().filter(|f| contested(&f.driver)).map(|f| module_of(&f.driver)));
    if now.iter().any(|module| module == "vfio_pci") {
        now.extend(["vfio", "vfio_iommu_type1", "vfio_virqfd", "vfio_pci_core"].map(String::from));
    }
    now.retain(|module| !kernel.has_builtin(module) && (kernel.has(module) || contested(module)));
    now.sort();
    now.dedup();
    tree.set_modules(&gone, &now)?;
    let conf = Conf::read(tree, "", &kernel.cmdline);
    let on = |value: Option<&str>| if matches!(value, Some("1" | "Y" | "y" | "on")) { "Y\n" } else { "N\n" };
    let there = |module: &str| now.iter().any(|m| m == module) || kernel.has_builtin(module);
    if there("vfio_pci") {
        let dir = "/sys/module/vfio_pci/parameters";
        tree.write(&format!("{dir}/ids"), format!("{}\n", conf.option("vfio_pci", "ids").unwrap_or_default()))?;
        tree.write(&format!("{dir}/disable_vga"), on(conf.option("vfio_pci", "disable_vga")))?;
    }
    if there("vfio_iommu_type1") {
        let unsafe_interrupts = on(conf.option("vfio_iommu_type1", "allow_unsafe_interrupts"));
        tree.write("/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", unsafe_interrupts)?;
    }
    if tree.loaded("kvm") {
        tree.write("/sys/module/kvm/parameters/ignore_msrs", on(conf.option("kvm", "ignore_msrs")))?;
    }
    Ok(())
}

/// Device nodes, /proc/iomem and NVIDIA's driver state, as the drivers of the moment make them.
pub(crate) fn after_bind(tree: &Tree, functions: &[Pci]) -> Result<(), PhysicsError> {
    let mut add: Vec<(String, String)> = Vec::new();
    let groups =
        functions.iter().filter(|function| function.driver == "vfio-pci").filter_map(|function| function.group);
    let groups: std::collections::BTreeSet<u32> = groups.collect();
    for (at, group) in groups.iter().enumerate() {
        add.push((format!("/dev/vfio/{group}"), format!("char 243:{at} 0600")));
    }
    let drm = |f: &&Pci| {
        matches!(f.driver.as_str(), "nouveau" | "i915" | "amdgpu" | "radeon" | "ast" | "bochs-drm" | "nvidia")
    };
    for (at, function) in functions.iter().filter(drm).enumerate() {
        add.push((format!("/dev/dri/card{at}"), format!("char 226:{at} 0660")));
        if !matches!(function.driver.as_str(), "ast" | "bochs-drm") {
            add.push((format!("/dev/dri/renderD{}", 128 + at), format!("char 226:{} 0660", 128 + at)));
        }
    }
    let stays = |path: &str| {
        let group = path.strip_prefix("/dev/vfio/").is_some_and(|name| name.parse::<u32>().is_ok());
        !group && !path.starts_with("/dev/dri/")
    };
    tree.set_devices(stays, &add)?;
    iomem(tree, functions)?;
    settle(tree, functions)
}

/// The line below a function's range names the driver that has it mapped.
fn iomem(tree: &Tree, functions: &[Pci]) -> Result<(), PhysicsError> {
    let text = tree.text("/proc/iomem");
    if text.is_empty() {
        return Ok(());
    }
    let depth = |line: &str| line.len() - line.trim_start().len();
    let mut out: Vec<String> = Vec::new();
    let mut below: Option<usize> = None;
    let mut native = false;
    let framebuffer = !tree.text("/proc/cmdline").contains("initcall_blacklist=sysfb_init");
    for line in text.lines() {
        let name = line.split(" : ").nth(1).unwrap_or_default();
        if below.is_some_and(|above| depth(line) > above) {
            // The firmware's framebuffer stays mapped until a display driver of the card's own comes.
            if framebuffer && !native && matches!(name, "BOOTFB" | "simplefb" | "efifb" | "vesafb") {
                out.push(line.to_owned());
            }
            continue;
        }
        below = None;
        out.push(line.to_owned());
        let Ok(bdf) = name.parse::<model::Bdf>() else { continue };
        let Some(function) = functions.iter().find(|function| function.bdf == bdf) else { continue };
        below = Some(depth(line));
        native = !matches!(function.driver.as_str(), "" | "vfio-pci");
        let claims = match function.driver.as_str() {
            "nouveau" | "nvidia" | "vfio-pci" => function.driver.as_str(),
            "snd_hda_intel" => "ICH HD audio",
            _ => continue,
        };
        let range = line.trim().split(" : ").next().unwrap_or_default();
        out.push(format!("{}{range} : {claims}", " ".repeat(depth(line) + 2)));
    }
    tree.write("/proc/iomem", out.join("\n") + "\n")
}

/// A function changes hands at run time (sysfs): everything that depends on it follows.
pub(crate) fn bind(tree: &Tree, change: impl FnOnce(&mut Vec<Pci>)) -> Result<(), PhysicsError> {
    let mut functions = tree.functions()?;
    change(&mut functions);
    let kinds = tree.root.names("/sys/kernel/iommu_groups");
    let identity = kinds.first().is_some_and(|group| {
        tree.root.value(&format!("/sys/kernel/iommu_groups/{group}/type")).is().as_deref() == Some("identity")
    });
    tree.set_functions(&functions, identity)?;
    after_bind(tree, &functions)
}
