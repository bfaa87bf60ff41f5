//! `app jellyfin --url`: a server's settings looked at and changed by its API, from any machine.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use jellyfin::{Client, JellyfinHands};
use journal::Hands;
use machine::Root;
use model::JellyfinWish;
use pve::{Secret, Trust};

use crate::cli::{Global, ServerArgs};
use crate::pve_api::{self, Nothing};
use crate::target::Target;
use crate::warn;

const TOKEN: &str = "THRUWAY_JELLYFIN_TOKEN";

/// A server as it was when it was asked, and the machine whose cards it uses.
pub struct Remote {
    pub facts: app::Facts,
    /// The machine with the cards: this one, unless another is named.
    pub below: Box<Target>,
    /// What is done to it is written down here, on this machine.
    pub home: PathBuf,
    /// The same, where it is there.
    pub journal: Option<Root>,
    client: Client,
    args: ServerArgs,
    wish: JellyfinWish,
}

impl Remote {
    /// Asks the server, and the cards unless a chip is named.
    pub fn ask(global: &Global, args: &ServerArgs, wish: &JellyfinWish) -> anyhow::Result<Remote> {
        let Some(url) = wish.url.as_deref() else { bail!("--url is not said") };
        let client = client(args, url)?;
        let public = client.public()?;
        let options = client.options()?;
        let digest = jellyfin::digest(&options);
        let server = app::Server { url: client.url().to_owned(), version: public.version, options, digest };
        let below = Box::new(Target::open(global)?);
        let machine = below.machine();
        let facts = app::server::observe(machine, &gpu::observe(machine), server, wish.chip.is_none());
        let home = pve_api::state_of("jellyfin", client.url())?;
        let journal =
            if home.is_dir() { Some(Root::tree(&home).context("cannot open this server's journal")?) } else { None };
        Ok(Remote { facts, below, home, journal, client, args: args.clone(), wish: wish.clone() })
    }

    pub fn again(&self, global: &Global) -> anyhow::Result<Remote> {
        Remote::ask(global, &self.args, &self.wish)
    }

    pub fn url(&self) -> &str {
        self.client.url()
    }

    pub fn title(&self) -> String {
        self.facts.server.as_ref().map(app::Server::title).unwrap_or_default()
    }

    pub fn hands(&self) -> anyhow::Result<Box<dyn Hands>> {
        Ok(Box::new(JellyfinHands::new(client(&self.args, self.client.url())?, Box::new(Nothing))))
    }
}

/// What was done from here to a server; it need not be asked.
pub fn log(url: &str) -> anyhow::Result<Vec<journal::Transaction>> {
    let home = pve_api::state_of("jellyfin", &Client::address(url)?)?;
    if !home.is_dir() {
        return Ok(Vec::new());
    }
    Ok(journal::read_log(&Root::tree(&home).context("cannot open this server's journal")?)?)
}

fn client(args: &ServerArgs, url: &str) -> anyhow::Result<Client> {
    let url = Client::address(url)?;
    let trust = if url.starts_with("https://") {
        let way = "give --fingerprint or --ca";
        pve_api::trusted(args.fingerprint.as_deref(), args.ca.as_deref(), way)?
    } else {
        Trust::Roots(Vec::new())
    };
    let client = Client::new(&url, token(args.token_file.as_deref())?, &trust)?;
    if client.in_the_clear() {
        warn(&format!("{url} is no https: the API key goes over the network in clear text"))?;
    }
    Ok(client)
}

/// An API key from its file, or the environment.
fn token(path: Option<&Path>) -> anyhow::Result<Secret> {
    if let Some(path) = path {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        pve_api::alone(path)?;
        return Ok(Secret::new(text.trim()));
    }
    match std::env::var(TOKEN) {
        Ok(token) if !token.trim().is_empty() => Ok(Secret::new(token.trim())),
        _ => bail!(
            "--url needs an API key of an administrator (Dashboard, API Keys): in --token-file or the environment variable {TOKEN}"
        ),
    }
}
