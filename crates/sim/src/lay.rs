//! Lays a box out as a directory tree that [`machine::Root::tree`] opens as a simulated machine.

use std::collections::BTreeMap;

use machine::scratch::Scratch;
use machine::{Answer, FileKind, Machine as _, MachineExt as _, Question, SIM_DIR, Stat};

use crate::boxes::{Box, BoxError};
use crate::tree::Tree;
use crate::{answers, pci};

/// What [`build`] would only find when it lays the box out: (a text to find the line by, what is wrong).
pub(crate) fn check(this: &Box) -> Result<(), (String, String)> {
    for (path, text) in &this.modes {
        mode(text).ok_or_else(|| (path.clone(), format!("\"{text}\" is no octal mode")))?;
    }
    for (path, text) in &this.hex {
        unhex(text).ok_or_else(|| (path.clone(), format!("the bytes of {path} are no hex")))?;
    }
    for (path, text) in &this.devices {
        device(text).ok_or_else(|| (path.clone(), format!("\"{text}\" is not like \"char 195:0 0666\"")))?;
    }
    for (key, text) in this.answers.iter().filter(|(_, text)| !text.trim().is_empty()) {
        answers::parse(key, text).map_err(|message| (key.clone(), message))?;
    }
    for number in this.group_type.keys().chain(this.group_reserved.keys()) {
        number.parse::<u32>().map_err(|_| (number.clone(), format!("\"{number}\" is no group number")))?;
    }
    Ok(())
}

fn mode(text: &str) -> Option<u32> {
    u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777)
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u32> =
        text.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_digit(16)).collect::<Option<_>>()?;
    let pairs = digits.chunks_exact(2);
    pairs
        .remainder()
        .is_empty()
        .then(|| pairs.map(|pair| pair.iter().fold(0, |sum, digit| sum * 16 + *digit as u8)).collect())
}

/// "char 195:0 0666" as the device node's metadata.
pub(crate) fn device(text: &str) -> Option<Stat> {
    let mut words = text.split_whitespace();
    let kind = match words.next()? {
        "char" => FileKind::CharDevice,
        "block" => FileKind::BlockDevice,
        _ => return None,
    };
    let (major, minor) = words.next()?.split_once(':')?;
    let rdev = Some((major.parse().ok()?, minor.parse().ok()?));
    let mode = mode(words.next()?)?;
    words.next().is_none().then_some(Stat { kind, mode, uid: 0, gid: 0, size: 0, mtime: 0, rdev })
}

/// Lays the machine out in an empty directory.
pub fn build(this: &Box, tree: &Scratch) -> Result<(), BoxError> {
    let io = |path: &str| {
        let (file, path) = (this.name.clone(), path.to_owned());
        move |source| BoxError::Io { file, path, source }
    };
    let bad = |message: String| BoxError::Bad { file: this.name.clone(), line: 1, message };
    let sys = pci::sys(&this.pci, &this.group_type, &this.group_reserved);
    lay_sys(tree, &sys).map_err(io("/sys/bus/pci"))?;
    if let Some(modules) = this.files.get("/proc/modules") {
        lay_modules(tree, modules).map_err(io("/sys/module"))?;
    }
    for path in &this.absent {
        let path = sys.place(path);
        tree.remove(&path).map_err(io(&path))?;
    }
    for path in &this.dirs {
        let path = sys.place(path);
        tree.mkdir(&path).map_err(io(&path))?;
    }
    let texts = this.files.iter().map(|(path, text)| (path, text.as_bytes().to_vec()));
    let bytes = this.hex.iter().map(|(path, text)| (path, unhex(text).unwrap_or_default()));
    for (path, bytes) in texts.chain(bytes) {
        let place = sys.place(path);
        let mode = this.modes.get(path).and_then(|text| mode(text)).unwrap_or(0o644);
        tree.write(&place, &bytes, mode).map_err(io(path))?;
        let time = this.mtimes.get(path).copied().unwrap_or(Box::TIME);
        tree.set_mtime(&place, time).map_err(io(path))?;
    }
    for (path, target) in &this.links {
        let below = format!("{path}/");
        if let Some(file) = this.files.keys().chain(this.hex.keys()).find(|file| file.starts_with(&below)) {
            return Err(bad(format!(
                "{path} is a link, and {file} is given below it: give the file at the link's target"
            )));
        }
        tree.link(&sys.place(path), target).map_err(io(path))?;
    }
    let mut devices = BTreeMap::new();
    for (path, text) in &this.devices {
        if let Some((parent, _)) = path.rsplit_once('/').filter(|(parent, _)| !parent.is_empty()) {
            tree.mkdir(parent).map_err(io(path))?;
        }
        devices.extend(device(text).map(|stat| (path.clone(), stat)));
    }
    store(tree, "devices.json", &devices).map_err(io("devices.json"))?;
    tree.mkdir(&format!("{SIM_DIR}/answers")).map_err(io("answers"))?;
    for (key, text) in &this.answers {
        let (question, answer) = answers::parse(key, text).map_err(bad)?;
        store_answer(tree, question, &answer).map_err(io(key))?;
    }
    let flat = toml::to_string(this).map_err(|error| bad(error.to_string()))?;
    tree.write(&format!("{SIM_DIR}/box.toml"), flat.as_bytes(), 0o644).map_err(io("box.toml"))?;
    first_initramfs(tree).map_err(|error| bad(error.to_string()))
}

/// The initramfs as the box's last update-initramfs left it: what is younger than the image is not in it.
fn first_initramfs(tree: &Scratch) -> Result<(), crate::physics::PhysicsError> {
    let tree = Tree::open(tree.path())?;
    let images = tree.root.names("/boot").into_iter().filter(|name| crate::hands::is_image(name));
    let times = images.filter_map(|name| tree.root.stat(&format!("/boot/{name}")).is()).map(|stat| stat.mtime);
    crate::physics::snapshot(&tree, times.max())?;
    crate::physics::loader::first_refresh(&tree)
}

/// Writes the PCI part of /sys; a boot removes the old one first.
pub(crate) fn lay_sys(tree: &Scratch, sys: &pci::Sys) -> std::io::Result<()> {
    for dir in &sys.dirs {
        tree.mkdir(dir)?;
    }
    for (path, bytes) in &sys.files {
        tree.write(path, bytes, sys.modes.get(path).copied().unwrap_or(0o644))?;
    }
    for (path, target) in &sys.links {
        tree.link(path, target)?;
    }
    Ok(())
}

/// /sys/module/NAME of each loaded module.
pub(crate) fn lay_modules(tree: &Scratch, modules: &str) -> std::io::Result<()> {
    for line in modules.lines() {
        let mut words = line.split_whitespace();
        let (Some(name), _, Some(users)) = (words.next(), words.next(), words.next()) else { continue };
        tree.write(&format!("/sys/module/{name}/initstate"), b"live\n", 0o444)?;
        tree.write(&format!("/sys/module/{name}/refcnt"), format!("{users}\n").as_bytes(), 0o444)?;
    }
    Ok(())
}

/// A file of the simulator's own directory, as JSON.
pub(crate) fn store<T: serde::Serialize>(tree: &Scratch, name: &str, value: &T) -> std::io::Result<()> {
    let text = serde_json::to_vec_pretty(value).map_err(std::io::Error::other)?;
    tree.write(&format!("{SIM_DIR}/{name}"), &text, 0o644)
}

/// What the simulated machine answers from now on.
pub(crate) fn store_answer(tree: &Scratch, question: Question, answer: &Answer) -> std::io::Result<()> {
    store(tree, &format!("answers/{}.json", question.key()), answer)
}
