//! What a driver's packages make and their purge leaves behind: an account for nvidia-persistenced, the key by which
//! DKMS signs. Closed lists: only these, only where they were not there before, and only once nothing uses them.

use std::path::Path;

use crate::{HandError, RealHands, Stock};

/// Debian's and Ubuntu's account for nvidia-persistenced.
const ACCOUNTS: [&str; 2] = ["nvpd", "nvidia-persistenced"];
/// DKMS makes a key at its first build (dkms(8), mok_signing_key).
const DKMS: &str = "/var/lib/dkms";
const KEYS: [&str; 2] = ["mok.key", "mok.pub"];

fn has_account(root: &Path, name: &str) -> bool {
    let text = std::fs::read_to_string(root.join("etc/passwd")).unwrap_or_default();
    text.lines().any(|line| line.split(':').next() == Some(name))
}

/// Those that are there.
pub(super) fn known(root: &Path) -> Vec<String> {
    let mut known: Vec<String> =
        ACCOUNTS.iter().filter(|name| has_account(root, name)).map(|name| (*name).to_owned()).collect();
    if root.join(DKMS.trim_start_matches('/')).exists() {
        known.push(DKMS.to_owned());
    }
    known
}

pub(super) fn clear(hands: &RealHands, stock: &Stock) -> Result<(), HandError> {
    let new = |what: &str| !stock.known.iter().any(|known| known == what);
    let came = |package: &str| stock.comes.iter().any(|(name, _)| name == package) && !stock.had(package);
    for account in ACCOUNTS {
        if new(account) && came("nvidia-persistenced") && has_account(hands.root(), account) {
            hands.read_program(&["userdel", account])?;
        }
    }
    let dir = hands.root().join(DKMS.trim_start_matches('/'));
    if new(DKMS) && came("dkms") && dir.is_dir() {
        let io = |source| HandError::Io { path: DKMS.into(), source };
        let names = std::fs::read_dir(&dir).map_err(io)?.flatten().map(|entry| entry.file_name());
        // Anything else in it is somebody's module.
        if names.into_iter().all(|name| KEYS.iter().any(|key| name == *key)) {
            for key in KEYS {
                match std::fs::remove_file(dir.join(key)) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
                    _ => {}
                }
            }
            std::fs::remove_dir(&dir).map_err(io)?;
        }
    }
    Ok(())
}
