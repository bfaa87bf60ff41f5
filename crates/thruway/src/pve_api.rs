//! `--pve URL`: VMs changed by Proxmox VE's API in place of `qm`.

use std::path::Path;

use anyhow::{Context as _, bail};
use journal::Hands;
use model::{Op, Plan};
use pve::{Client, Login, PveHands, Secret, Trust};

use crate::cli::{Global, PveArgs};
use crate::warn;

const TOKEN: &str = "THRUWAY_PVE_TOKEN";
const PASSWORD: &str = "THRUWAY_PVE_PASSWORD";

/// The cluster's own CA on a node; then where distributions keep the public ones.
const CAS: &[&str] =
    &["/etc/pve/pve-root-ca.pem", "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

/// `below` without --pve; with it, hands that send VM changes to the API. What the API will refuse of the plan is said
/// here, before anything is changed or asked.
pub fn hands(global: &Global, below: Box<dyn Hands>, plan: Option<&Plan>) -> anyhow::Result<Box<dyn Hands>> {
    let args = &global.pve;
    let Some(url) = &args.url else { return Ok(below) };
    let client = Client::new(url, login(args)?, &trust(args)?)?;
    let hands = PveHands::new(client, below, Box::new(|text| drop(warn(text))));
    for change in plan.into_iter().flat_map(|plan| &plan.changes) {
        if let Op::Proxmox { vmid, set, delete, .. } = &change.op {
            hands.ahead(*vmid, set, delete)?;
        }
    }
    Ok(Box::new(hands))
}

/// A token from its file or the environment, else a user with the password from the environment.
fn login(args: &PveArgs) -> anyhow::Result<Login> {
    if let Some(path) = &args.token_file {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        alone(path)?;
        return Login::token(&text).with_context(|| format!("{} holds no token", path.display()));
    }
    let set = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    match (&args.user, set(TOKEN)) {
        (Some(user), _) => match set(PASSWORD) {
            Some(password) => Ok(Login::Password { user: user.clone(), password: Secret::new(password) }),
            None => bail!(
                "--pve-user {user}: its password is read from the environment variable {PASSWORD}, which is not set"
            ),
        },
        (None, Some(token)) => Login::token(&token).with_context(|| format!("the environment variable {TOKEN}")),
        (None, None) => bail!(
            "--pve needs a login: an API token in --pve-token-file or the environment variable {TOKEN}, or --pve-user with {PASSWORD}"
        ),
    }
}

/// Says so where others can read the token.
fn alone(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(path).map(|meta| meta.permissions().mode()).unwrap_or(0);
    if mode & 0o077 != 0 {
        warn(&format!("{} can be read by others: chmod 600 it", path.display()))?;
    }
    Ok(())
}

fn trust(args: &PveArgs) -> anyhow::Result<Trust> {
    if let Some(pin) = &args.fingerprint {
        return Ok(Trust::pin(pin)?);
    }
    if let Some(path) = &args.ca {
        let pem = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        return Ok(Trust::Roots(pem));
    }
    match CAS.iter().find_map(|path| std::fs::read(path).ok()) {
        Some(pem) => Ok(Trust::Roots(pem)),
        None => {
            bail!("this machine has no list of CAs: give --pve-fingerprint (pvenode cert info on the node) or --pve-ca")
        }
    }
}
