//! Hands for NVIDIA's own installer: checked once more, run unattended, taken back by the uninstaller that it leaves.

use std::fs::File;
use std::io::Read as _;

use formats::runfile::{self, RunFile, Sums};
use model::{Digest, DriverFile, RunFileOp, UNINSTALLER};
use sha2::{Digest as _, Sha256};

use crate::run::{self, progress};
use crate::{HandError, RealHands};

const PIECE: u64 = 1 << 20;

/// Reads the whole file once: what it is, whether its own sums hold, and its SHA-256. `Err`: why it is not to be used.
pub fn inspect(path: &std::path::Path) -> Result<(RunFile, Digest), String> {
    let shown = path.display();
    let mut file = File::open(path).map_err(|error| format!("{shown}: {error}"))?;
    if !file.metadata().is_ok_and(|it| it.is_file()) {
        return Err(format!("{shown} is no regular file"));
    }
    let mut piece = Vec::new();
    let mut whole = Sha256::new();
    let mut sums = Sums::default();
    let mut run: Option<RunFile> = None;
    loop {
        piece.clear();
        let read = file.by_ref().take(PIECE).read_to_end(&mut piece).map_err(|error| format!("{shown}: {error}"))?;
        if read == 0 {
            break;
        }
        let bytes = piece.as_slice();
        whole.update(bytes);
        match &run {
            // the first piece holds the head
            None => {
                let head = runfile::head(bytes).map_err(|error| format!("{shown}: {error}"))?;
                sums.update(bytes.get(head.body..).unwrap_or_default());
                run = Some(head);
            }
            Some(_) => sums.update(bytes),
        }
    }
    let run = run.ok_or_else(|| format!("{shown} is empty"))?;
    sums.check(&run).map_err(|error| format!("{shown}: {error}"))?;
    let digest = Digest::from_sha256(whole.finalize().into());
    Ok((run, digest))
}

fn failed(command: &str, message: impl Into<String>) -> HandError {
    HandError::Failed { command: command.into(), status: "refused".into(), message: message.into() }
}

impl RealHands {
    pub(crate) fn run_file(&self, op: &RunFileOp) -> Result<(), HandError> {
        self.here("running NVIDIA's installer")?;
        self.same(&op.file)?;
        self.installer(&op.argv(), "/var/log/nvidia-installer.log")?;
        self.built(&op.builds)
    }

    pub(crate) fn unrun_file(&self, op: &RunFileOp) -> Result<(), HandError> {
        self.here("running NVIDIA's uninstaller")?;
        let argv: Vec<&str> = if self.root().join(UNINSTALLER.trim_start_matches('/')).exists() {
            vec![UNINSTALLER, "--silent"]
        } else {
            // Cut off before it left its uninstaller: the installer itself knows how to clear up.
            self.same(&op.file)?;
            vec!["sh", &op.file.path, "--uninstall", "--silent"]
        };
        let argv: Vec<String> = argv.into_iter().map(str::to_owned).collect();
        self.installer(&argv, "/var/log/nvidia-uninstall.log")
    }

    /// The file that the plan was made with, and no other: it runs as root.
    fn same(&self, file: &DriverFile) -> Result<(), HandError> {
        let (_, found) = inspect(std::path::Path::new(&file.path)).map_err(|why| failed(&file.path, why))?;
        if found == file.sha256 {
            return Ok(());
        }
        let wanted = format!("the file {}", file.sha256);
        Err(HandError::Moved { what: file.path.clone(), wanted, found: format!("another, {found}") })
    }

    /// It says little and writes a log: whose last lines say why.
    fn installer(&self, argv: &[String], log: &str) -> Result<(), HandError> {
        let words: Vec<&str> = argv.iter().map(String::as_str).collect();
        let (command, named) = self.command(&words)?;
        let ran = run::tell(command, named, &progress, &|says| self.tell(says));
        ran.map_err(|error| match error {
            HandError::Failed { command, status, message } => {
                let text = std::fs::read(self.root().join(log.trim_start_matches('/'))).unwrap_or_default();
                let text = String::from_utf8_lossy(&text);
                let tail: Vec<&str> = text.lines().rev().filter(|line| line.contains("ERROR")).take(3).collect();
                let tail = tail.into_iter().rev().collect::<Vec<_>>().join("; ");
                let message = if tail.is_empty() { message } else { format!("{message}; {log}: {tail}") };
                HandError::Failed { command, status, message }
            }
            other => other,
        })
    }
}
