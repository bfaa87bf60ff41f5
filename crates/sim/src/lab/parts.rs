//! What the guest is made of: Debian's kernel and busybox from their packages, and this machine's C library.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::{Event, LabError};

/// The packages that name Debian's newest kernel: for any machine, and the small one for virtual machines.
pub const GENERIC: &str = "linux-image-amd64";
pub const CLOUD: &str = "linux-image-cloud-amd64";

/// A kernel laid out below the cache.
pub struct Kernel {
    /// As `uname -r` prints it.
    pub release: String,
    pub image: PathBuf,
    tree: PathBuf,
}

impl Kernel {
    fn at(tree: PathBuf, release: &str) -> Kernel {
        Kernel { release: release.to_owned(), image: tree.join(format!("boot/vmlinuz-{release}")), tree }
    }

    /// The files of these modules and of all that they need, in the order in which they load.
    pub fn modules(&self, names: &[&str]) -> Result<Vec<PathBuf>, LabError> {
        let mut files: Vec<PathBuf> = Vec::new();
        for name in names {
            let mut modprobe = admin("modprobe");
            modprobe.arg("-d").arg(&self.tree).args(["-S", &self.release, "--show-depends", name]);
            let listed = run(&mut modprobe, "kmod")?;
            for file in listed.lines().filter_map(insmod).map(PathBuf::from) {
                if !files.contains(&file) {
                    files.push(file);
                }
            }
        }
        Ok(files)
    }
}

/// The file of a line `insmod /path/vfio.ko.xz option=1`; nothing for `builtin vfio`.
fn insmod(line: &str) -> Option<&str> {
    line.strip_prefix("insmod ")?.split_whitespace().next()
}

/// Debian's kernel behind one of the names above, from the cache or freshly downloaded.
pub fn kernel(meta: &str, cache: &Path, tell: &mut dyn FnMut(Event)) -> Result<Kernel, LabError> {
    let listed = run(Command::new("apt-cache").args(["depends", meta]), "apt")?;
    let package = listed.lines().find_map(kernel_package).ok_or_else(|| {
        LabError::Unfit(format!("apt knows no kernel behind {meta} (a Debian package): run apt-get update"))
    })?;
    let release = package.trim_start_matches("linux-image-");
    let tree = unpacked(cache, package, tell, &|tree| {
        let mut depmod = admin("depmod");
        run(depmod.arg("-b").arg(tree).arg(release), "kmod").map(|_| ())
    })?;
    Ok(Kernel::at(tree, release))
}

/// `  Depends: linux-image-6.1.0-56-amd64`
fn kernel_package(line: &str) -> Option<&str> {
    let name = line.trim().strip_prefix("Depends:")?.trim();
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'+' | b'~'));
    (name.starts_with("linux-image-") && plain).then_some(name)
}

/// A busybox that needs no libraries: this machine's, or the package's.
pub fn busybox(cache: &Path, tell: &mut dyn FnMut(Event)) -> Result<Vec<u8>, LabError> {
    for path in ["/usr/bin/busybox", "/bin/busybox"] {
        if let Ok(bytes) = std::fs::read(path)
            && !interpreted(&bytes)
        {
            return Ok(bytes);
        }
    }
    let tree = unpacked(cache, "busybox-static", tell, &|_| Ok(()))?;
    let found = ["usr/bin/busybox", "bin/busybox"].iter().find_map(|path| std::fs::read(tree.join(path)).ok());
    found.ok_or_else(|| LabError::Missing { what: "a static busybox".into(), package: "busybox-static" })
}

/// Whether a program asks for a loader: its path stands in the first page of every dynamic program.
fn interpreted(program: &[u8]) -> bool {
    let loader = b"/lib64/ld-linux";
    program.iter().take(4096).copied().collect::<Vec<u8>>().windows(loader.len()).any(|part| part == loader)
}

/// A package's tree below the cache, downloaded and unpacked where it is not there yet. `finish` completes a new one.
fn unpacked(
    cache: &Path,
    package: &str,
    tell: &mut dyn FnMut(Event),
    finish: &dyn Fn(&Path) -> Result<(), LabError>,
) -> Result<PathBuf, LabError> {
    let tree = cache.join(package);
    if tree.is_dir() {
        return Ok(tree);
    }
    std::fs::create_dir_all(cache).map_err(LabError::io(cache.display().to_string()))?;
    // Beside its last place, so that the rename is one step and a broken download is never taken for a whole one.
    let part = tempfile::Builder::new().prefix(".part-").tempdir_in(cache);
    let part = part.map_err(LabError::io(cache.display().to_string()))?;
    tell(Event::Preparing(format!("downloading Debian's package {package}")));
    run(Command::new("apt-get").args(["download", "-q", package]).current_dir(part.path()), "apt")?;
    let deb = std::fs::read_dir(part.path())
        .map_err(LabError::io(part.path().display().to_string()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .ok_or_else(|| LabError::Unfit(format!("apt-get download {package} left no package")))?;
    let fresh = part.path().join("tree");
    tell(Event::Preparing(format!("unpacking {package}")));
    run(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&fresh), "dpkg")?;
    finish(&fresh)?;
    match std::fs::rename(&fresh, &tree) {
        Ok(()) => Ok(tree),
        // Another lab was faster.
        Err(_) if tree.is_dir() => Ok(tree),
        Err(source) => Err(LabError::Io { what: tree.display().to_string(), source }),
    }
}

/// A module's name and its content, uncompressed: busybox's insmod reads no xz.
pub fn module(file: &Path) -> Result<(String, Vec<u8>), LabError> {
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    match name.strip_suffix(".xz") {
        Some(plain) => {
            let output = output(Command::new("xz").arg("-dc").arg(file), "xz-utils")?;
            Ok((plain.to_owned(), output.stdout))
        }
        None => Ok((name, bytes(file)?)),
    }
}

/// The libraries of a program and its loader, by the paths at which they are here.
pub fn libraries(program: &Path) -> Result<Vec<String>, LabError> {
    let listed = run(Command::new("ldd").arg(program), "libc-bin")?;
    Ok(listed.lines().filter_map(library).map(str::to_owned).collect())
}

/// `libm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x...)`, `/lib64/ld-linux-x86-64.so.2 (0x...)`; the vdso has no path.
pub fn library(line: &str) -> Option<&str> {
    line.split_whitespace().find(|word| word.starts_with('/'))
}

pub fn bytes(path: &Path) -> Result<Vec<u8>, LabError> {
    std::fs::read(path).map_err(LabError::io(path.display().to_string()))
}

pub fn text(path: &Path) -> Result<String, LabError> {
    std::fs::read_to_string(path).map_err(LabError::io(path.display().to_string()))
}

/// A copy of a program below this directory without its symbols, which a debug build has many of; the program itself
/// where nothing strips. An emulated machine unpacks slowly.
pub fn stripped(program: &Path, dir: &Path) -> PathBuf {
    let small = dir.join("program");
    let done = Command::new("strip").arg("-o").arg(&small).arg(program).output();
    match done {
        Ok(output) if output.status.success() => small,
        _ => program.to_owned(),
    }
}

/// A program that an ordinary user's PATH lacks.
pub fn admin(name: &str) -> Command {
    let at = ["/usr/sbin", "/sbin"].iter().map(|dir| Path::new(dir).join(name)).find(|path| path.is_file());
    at.map_or_else(|| Command::new(name), Command::new)
}

/// Runs a tool of this package to its end and gives what it printed.
pub fn run(command: &mut Command, package: &'static str) -> Result<String, LabError> {
    output(command, package).map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn output(command: &mut Command, package: &'static str) -> Result<Output, LabError> {
    let name = command.get_program().to_string_lossy().into_owned();
    let missing = || LabError::Missing { what: name.clone(), package };
    let output = command.env("LC_ALL", "C").output().map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => missing(),
        _ => LabError::Io { what: name.clone(), source },
    })?;
    if output.status.success() {
        return Ok(output);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let why = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing").to_owned();
    Err(LabError::Tool { command: name, why: format!("{why} ({})", output.status) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_are_understood() {
        assert_eq!(kernel_package("  Depends: linux-image-6.1.0-56-amd64"), Some("linux-image-6.1.0-56-amd64"));
        assert_eq!(kernel_package("linux-image-amd64"), None);
        assert_eq!(kernel_package("  Depends: linux-image-../../x"), None);
        assert_eq!(insmod("insmod /t/lib/modules/6.1/vfio.ko.xz a=1"), Some("/t/lib/modules/6.1/vfio.ko.xz"));
        assert_eq!(insmod("builtin vfio"), None);
        assert_eq!(
            library("\tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x7f)"),
            Some("/lib/x86_64-linux-gnu/libm.so.6")
        );
        assert_eq!(library("\t/lib64/ld-linux-x86-64.so.2 (0x7f)"), Some("/lib64/ld-linux-x86-64.so.2"));
        assert_eq!(library("\tlinux-vdso.so.1 (0x7f)"), None);
        assert!(interpreted(b"\x7fELF..../lib64/ld-linux-x86-64.so.2\0"));
        assert!(!interpreted(b"\x7fELF"));
    }
}
