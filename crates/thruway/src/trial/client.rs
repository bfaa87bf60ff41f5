//! The engines' own clients: loading an image, starting a container with a request or without, and taking both away.

#![allow(clippy::disallowed_types, reason = "starts the engines' own clients, and takes away what it started")]

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

/// A start with a cold driver can take half a minute (no persistence).
const LIMIT: Duration = Duration::from_secs(120);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Docker,
    Podman,
    Containerd,
}

/// How a container asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// `--device nvidia.com/gpu=all`
    Cdi,
    /// `--gpus all`
    Gpus,
    /// `--runtime nvidia -e NVIDIA_VISIBLE_DEVICES=all`
    Runtime,
    /// Nothing at all.
    Nothing,
}

/// What a client said.
pub struct Said {
    pub ok: bool,
    pub out: String,
    pub err: String,
}

pub struct Client {
    pub kind: Kind,
    /// thruway's own runtime or NVIDIA's, for containerd's client, which knows no runtime names.
    pub runtime: Option<String>,
}

impl Client {
    pub fn program(&self) -> &'static str {
        match self.kind {
            Kind::Docker => "docker",
            Kind::Podman => "podman",
            Kind::Containerd => "ctr",
        }
    }

    /// Words that every call begins with.
    fn base(&self) -> Vec<String> {
        match self.kind {
            Kind::Containerd => vec!["--namespace".into(), "thruway-test".into()],
            _ => Vec::new(),
        }
    }

    pub fn load(&self, archive: &[u8]) -> anyhow::Result<()> {
        let words: &[&str] = match self.kind {
            Kind::Docker | Kind::Podman => &["load"],
            Kind::Containerd => &["images", "import", "-"],
        };
        let said = self.call(words, Some(archive))?;
        if !said.ok {
            bail!("{} cannot load the test's image: {}", self.program(), said.err.trim());
        }
        Ok(())
    }

    /// The command line of a start, as a reader would paste it.
    pub fn argv(&self, name: &str, image: &str, bundle: Option<&Path>, ask: Ask, probe: &[&str]) -> Vec<String> {
        let mut argv = self.base();
        argv.extend(["run", "--rm"].map(String::from));
        let engine = self.kind != Kind::Containerd;
        if engine {
            argv.extend(["--name", name, "--network", "none"].map(String::from));
        }
        // SELinux lets no container open NVIDIA's nodes by its standard type.
        if self.kind == Kind::Podman {
            argv.push("--security-opt=label=disable".into());
        }
        match (ask, self.kind) {
            (Ask::Nothing, _) => {}
            (Ask::Cdi, _) => argv.extend(["--device", "nvidia.com/gpu=all"].map(String::from)),
            (Ask::Gpus, _) => argv.extend(["--gpus", "all"].map(String::from)),
            (Ask::Runtime, Kind::Containerd) => {
                let binary = self.runtime.clone().unwrap_or_else(|| "nvidia-container-runtime".into());
                argv.extend(["--runc-binary".into(), binary, "--env".into(), "NVIDIA_VISIBLE_DEVICES=all".into()]);
            }
            (Ask::Runtime, _) => {
                argv.extend(["--runtime", "nvidia", "--env", "NVIDIA_VISIBLE_DEVICES=all"].map(String::from));
            }
        }
        const INSIDE: &str = "/.thruway";
        let program = match bundle {
            None => vec![super::bundle::PROGRAM.to_owned()],
            Some(dir) if engine => {
                argv.extend(["--volume".into(), format!("{}:{INSIDE}:ro", dir.display())]);
                argv.extend(["--entrypoint".into(), format!("{INSIDE}/ld.so")]);
                ["--library-path", INSIDE, "/.thruway/thruway"].map(String::from).into()
            }
            Some(dir) => {
                let mount = format!("type=bind,src={},dst={INSIDE},options=rbind:ro", dir.display());
                argv.extend(["--mount".into(), mount]);
                ["/.thruway/ld.so", "--library-path", INSIDE, "/.thruway/thruway"].map(String::from).into()
            }
        };
        // ctr takes the reference as it is written out in full.
        match self.kind {
            Kind::Containerd => argv.extend([full(image), name.to_owned()]),
            _ => argv.push(image.to_owned()),
        }
        argv.extend(program);
        argv.extend(probe.iter().map(|word| (*word).to_owned()));
        argv
    }

    pub fn start(&self, argv: &[String]) -> anyhow::Result<Said> {
        let words: Vec<&str> = argv.iter().map(String::as_str).collect();
        run(self.program(), &words, None)
    }

    /// Whatever is left of a container and of our image; silent, for it is called whatever happened.
    pub fn clean(&self, names: &[String], image: Option<&str>) {
        for name in names {
            match self.kind {
                Kind::Docker | Kind::Podman => drop(self.call(&["rm", "--force", name], None)),
                Kind::Containerd => {
                    drop(self.call(&["tasks", "rm", "--force", name], None));
                    drop(self.call(&["containers", "rm", name], None));
                }
            }
        }
        let Some(image) = image else { return };
        match self.kind {
            Kind::Docker | Kind::Podman => drop(self.call(&["rmi", "--force", image], None)),
            Kind::Containerd => {
                drop(self.call(&["images", "rm", "--sync", &full(image)], None));
                drop(run("ctr", &["namespaces", "rm", "thruway-test"], None));
            }
        }
    }

    fn call(&self, words: &[&str], input: Option<&[u8]>) -> anyhow::Result<Said> {
        let base = self.base();
        let words: Vec<&str> = base.iter().map(String::as_str).chain(words.iter().copied()).collect();
        run(self.program(), &words, input)
    }
}

fn full(image: &str) -> String {
    match image.split_once('/') {
        Some((host, _)) if host.contains('.') || host.contains(':') => image.to_owned(),
        Some(_) => format!("docker.io/{image}"),
        None => format!("docker.io/library/{image}"),
    }
}

fn run(program: &str, words: &[&str], input: Option<&[u8]>) -> anyhow::Result<Said> {
    let mut child = Command::new(program)
        .args(words)
        .env("LC_ALL", "C")
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    let drain = |pipe: Option<Box<dyn std::io::Read + Send>>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(pipe) = pipe {
                let _ = pipe.take(16 << 20).read_to_end(&mut bytes);
            }
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let out = drain(child.stdout.take().map(|pipe| Box::new(pipe) as _));
    let err = drain(child.stderr.take().map(|pipe| Box::new(pipe) as _));
    if let (Some(input), Some(mut pipe)) = (input, child.stdin.take()) {
        // A client that refuses the image closes its end; what it says then is the better message.
        let _ = pipe.write_all(input);
    }
    let start = Instant::now();
    let ok = loop {
        match child.try_wait()? {
            Some(status) => break status.success(),
            None if start.elapsed() > LIMIT => {
                let _ = child.kill();
                let _ = child.wait();
                bail!("{program} has not ended within {} s", LIMIT.as_secs());
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    Ok(Said { ok, out: out.join().unwrap_or_default(), err: err.join().unwrap_or_default() })
}
