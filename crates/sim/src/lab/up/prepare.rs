//! What `lab up` is made of: keys, what SSH and up are told, the host's and the guest's disk.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::super::qemu::Boot;
use super::super::{Event, LabError, Options, disk as host, parts};
use super::{LOOK, disk, files};

/// What the host runs at each boot.
const SCRIPT: &str = include_str!("host.sh");
const DOMAIN: &str = include_str!("guest.xml");

/// What one run is made of.
pub struct Lab {
    pub release: String,
    pub boot: Boot,
    pub dir: PathBuf,
    /// `thruway`, without its symbols: it is copied over SSH.
    pub thruway: PathBuf,
}

/// Everything but QEMU itself, below this directory.
pub fn prepare(options: &Options, dir: &Path, tell: &mut dyn FnMut(Event)) -> Result<Lab, LabError> {
    let libraries = libraries(options)?;
    let programs: Vec<(String, PathBuf)> = disk::PROGRAMS
        .iter()
        .map(|name| Ok((name.to_string(), beside(options, name)?)))
        .collect::<Result<_, LabError>>()?;
    parts::run(Command::new("ssh").arg("-V"), "openssh-client")?;
    let host = host::host(&options.cache, &options.interrupted, tell)?;
    let inner = parts::kernel(parts::CLOUD, &options.cache, tell)?;
    let busybox = parts::busybox(&options.cache, tell)?;
    tell(Event::Preparing("making keys, and the guest's disk with a simulated driver".into()));
    let thruway = parts::stripped(&options.thruway, dir);
    for key in [files::KEY, files::HOST_KEY, files::GUEST_KEY] {
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", "thruway-lab", "-f"]).arg(dir.join(key));
        parts::run(&mut keygen, "openssh-client")?;
    }
    let public = |key: &str| parts::text(&dir.join(format!("{key}.pub")));
    let known = files::known_hosts(&public(files::HOST_KEY)?, &public(files::GUEST_KEY)?)
        .ok_or_else(|| LabError::Unfit("ssh-keygen wrote no public key of the usual form".into()))?;
    let port = free_port()?;
    let config = dir.join("ssh_config");
    for (name, text) in [
        ("known_hosts", known),
        ("ssh_config", files::ssh_config(dir, port, host::USER)),
        ("way.toml", files::way(&config)),
    ] {
        let path = dir.join(name);
        std::fs::write(&path, text).map_err(LabError::io(path.display().to_string()))?;
    }
    let authorized = dir.join(format!("{}.pub", files::KEY));
    let stripped: Vec<(String, PathBuf)> = programs
        .into_iter()
        .map(|(name, path)| {
            let own = dir.join(format!("small-{name}"));
            std::fs::create_dir_all(&own).map_err(LabError::io(own.display().to_string()))?;
            Ok((name, parts::stripped(&path, &own)))
        })
        .collect::<Result<_, LabError>>()?;
    let guest = disk::disk(
        dir,
        &disk::Parts {
            debian: &host.guest,
            busybox: &busybox,
            thruway: &thruway,
            programs: &stripped,
            libraries: &libraries,
            host_key: &dir.join(files::GUEST_KEY),
            authorized: &authorized,
        },
    )?;
    let given = [
        ("guest/vmlinuz".to_owned(), parts::bytes(&inner.image)?),
        ("guest/initramfs".to_owned(), disk::initramfs(&inner, &busybox)?),
        ("gpu-guest.xml".to_owned(), DOMAIN.as_bytes().to_vec()),
        ("look.sh".to_owned(), LOOK.as_bytes().to_vec()),
        ("host_key".to_owned(), parts::bytes(&dir.join(files::HOST_KEY))?),
        ("authorized_keys".to_owned(), parts::bytes(&authorized)?),
    ];
    let tools = host::tools(dir, SCRIPT, &[("thruway", &thruway)], &given)?;
    let root = dir.join("host.qcow2");
    let base = std::path::absolute(&host.image).map_err(LabError::io(host.image.display().to_string()))?;
    let mut create = Command::new("qemu-img");
    create.args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"]).arg(&base).arg(&root);
    parts::run(&mut create, "qemu-utils")?;
    let boot = Boot::Kept { root, tools, guest, port };
    Ok(Lab { release: host.release, boot, dir: dir.to_owned(), thruway })
}

/// Where the simulated driver's libraries are: where it was said, or beside the program, as cargo builds them.
fn libraries(options: &Options) -> Result<PathBuf, LabError> {
    let own = options.thruway.parent().unwrap_or(Path::new("."));
    let candidates = match &options.libraries {
        Some(dir) => vec![dir.clone()],
        None => vec![own.to_owned(), own.join("deps")],
    };
    let whole = |dir: &&PathBuf| disk::LIBRARIES.iter().all(|name| dir.join(name).is_file());
    candidates.iter().find(whole).cloned().ok_or_else(|| {
        let looked: Vec<String> = candidates.iter().map(|dir| dir.display().to_string()).collect();
        LabError::Unfit(format!(
            "the guest's simulated driver is made of {}, which are not all in {}: build them with `cargo build -p \
             thruway-simnvml -p thruway-simcuda -p thruway-simcuvid -p thruway-simnvenc`, or name their directory with \
             --libraries",
            disk::LIBRARIES.join(", "),
            looked.join(" or ")
        ))
    })
}

/// One of thruway's programs beside this one.
fn beside(options: &Options, name: &str) -> Result<PathBuf, LabError> {
    let path = options.thruway.with_file_name(name);
    if path.is_file() {
        return Ok(path);
    }
    Err(LabError::Unfit(format!(
        "the guest's containers need {name}, which is not at {}: build it with `cargo build -p {name}`",
        path.display()
    )))
}

/// A port of this machine's own address that nobody listens on. QEMU takes it a moment later.
fn free_port() -> Result<u16, LabError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(LabError::io("a free port"))?;
    Ok(listener.local_addr().map_err(LabError::io("a free port"))?.port())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn options(thruway: &Path, libraries: Option<PathBuf>) -> Options {
        Options {
            form: super::super::Form::Up,
            thruway: thruway.to_owned(),
            cache: PathBuf::new(),
            libraries,
            cut_after: None,
            limit: std::time::Duration::ZERO,
            interrupted: Arc::default(),
        }
    }

    #[test]
    fn what_is_built_beside_the_program_is_found_and_what_is_not_is_named() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let program = dir.path().join("thruway");
        let why = libraries(&options(&program, None)).expect_err("nothing is built").to_string();
        assert!(why.contains("libsimnvml.so") && why.contains("cargo build -p thruway-simnvml"), "{why}");
        let why = beside(&options(&program, None), "thruway-hook").expect_err("nothing is built").to_string();
        assert!(why.contains("cargo build -p thruway-hook"), "{why}");
        let deps = dir.path().join("deps");
        std::fs::create_dir(&deps).expect("a directory");
        for name in disk::LIBRARIES {
            std::fs::write(deps.join(name), "").expect("a file");
        }
        assert_eq!(libraries(&options(&program, None)).expect("they are there"), deps);
        // What was said is taken at its word.
        assert!(libraries(&options(&program, Some(dir.path().to_owned()))).is_err());
        assert!(libraries(&options(Path::new("/nowhere/thruway"), Some(deps))).is_ok());
    }
}
