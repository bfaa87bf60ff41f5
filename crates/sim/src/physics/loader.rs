//! Boot loaders: what their generators write, and what command line the next boot gets.

use std::collections::BTreeMap;

use machine::SIM_DIR;

use crate::tree::Tree;

/// Assignments of a shell fragment such as /etc/default/grub, with `$NAME` and `+=` as the shell has them.
pub(crate) fn assign(variables: &mut BTreeMap<String, String>, text: &str) {
    for line in text.replace("\\\n", "").lines().map(str::trim) {
        let Some((name, value)) = line.split_once('=') else { continue };
        let name = name.trim_start_matches("export ").trim();
        let (name, append) = name.strip_suffix('+').map_or((name, false), |name| (name, true));
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            continue;
        }
        let value = expand(value, variables);
        let slot = variables.entry(name.into()).or_default();
        if append { slot.push_str(&value) } else { *slot = value }
    }
}

/// One shell word: quotes removed, variables replaced, an unquoted `#` or blank ends it.
fn expand(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut chars = text.chars().peekable();
    let mut quote = None;
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\'' | '"', None) => quote = Some(c),
            (c, Some(open)) if c == open => quote = None,
            ('\\', None | Some('"')) => out.extend(chars.next()),
            ('$', None | Some('"')) => {
                let braced = chars.next_if_eq(&'{').is_some();
                let mut name = String::new();
                while let Some(c) = chars.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
                    name.push(c);
                }
                if braced {
                    chars.by_ref().find(|c| *c == '}');
                }
                out.push_str(variables.get(&name).map_or("", String::as_str));
            }
            (c, None) if c.is_whitespace() => break,
            (c, _) => out.push(c),
        }
    }
    out
}

/// `update-grub`: new arguments in every `linux` line; a line whose arguments stay the same keeps its bytes.
pub(crate) fn update_grub(tree: &Tree) -> Result<(), super::PhysicsError> {
    let mut variables = BTreeMap::new();
    assign(&mut variables, &tree.text("/etc/default/grub"));
    for (_, text) in tree.texts("/etc/default/grub.d", ".cfg") {
        assign(&mut variables, &text);
    }
    let of = |name: &str| variables.get(name).cloned().unwrap_or_default();
    let wanted = format!("{} {}", of("GRUB_CMDLINE_LINUX"), of("GRUB_CMDLINE_LINUX_DEFAULT"));
    let wanted: Vec<&str> = wanted.split_whitespace().collect();
    let mut text = String::new();
    for line in tree.text("/boot/grub/grub.cfg").split_inclusive('\n') {
        let mut words = line.split_whitespace();
        let (Some("linux"), Some(kernel)) = (words.next(), words.next()) else {
            text.push_str(line);
            continue;
        };
        let mut rest: Vec<&str> = words.collect();
        let fixed = match rest.iter().position(|word| *word == "ro" || *word == "rw") {
            Some(at) => rest.drain(..=at).collect(),
            None => Vec::new(),
        };
        if rest == wanted {
            text.push_str(line);
            continue;
        }
        let blank: String = line.chars().take_while(|c| c.is_whitespace()).collect();
        let all: Vec<&str> = fixed.into_iter().chain(wanted.iter().copied()).collect();
        text.push_str(&format!("{blank}linux\t{kernel} {}\n", all.join(" ")));
    }
    tree.write("/boot/grub/grub.cfg", text)
}

/// True where proxmox-boot-tool keeps the kernels on its own ESPs.
pub(crate) fn has_esps(tree: &Tree) -> bool {
    !tree.text("/etc/kernel/proxmox-boot-uuids").trim().is_empty()
}

/// `proxmox-boot-tool refresh`: the ESPs get the command line as it is written now.
pub(crate) fn refresh(tree: &Tree) -> Result<(), super::PhysicsError> {
    if by_systemd_boot(tree) {
        tree.write(&format!("{SIM_DIR}/esp/cmdline"), tree.text("/etc/kernel/cmdline").trim())
    } else {
        update_grub(tree)
    }
}

/// A box's ESPs have the command line that it runs with.
pub(crate) fn first_refresh(tree: &Tree) -> Result<(), super::PhysicsError> {
    if !has_esps(tree) || !by_systemd_boot(tree) {
        return Ok(());
    }
    let now = tree.text("/proc/cmdline");
    let words: Vec<&str> = now.split_whitespace().filter(|word| !word.starts_with("initrd=")).collect();
    tree.write(&format!("{SIM_DIR}/esp/cmdline"), words.join(" "))
}

/// `kernel-install add-all`: entries get the command line of /etc/kernel/cmdline.
pub(crate) fn kernel_install(tree: &Tree) -> Result<(), super::PhysicsError> {
    let wanted = tree.text("/etc/kernel/cmdline");
    for (name, text) in tree.texts("/boot/loader/entries", ".conf") {
        let line = |line: &str| match line.split_once(char::is_whitespace) {
            Some(("options", _)) => format!("options    {}", wanted.trim()),
            _ => line.to_owned(),
        };
        let lines: Vec<String> = text.lines().map(line).collect();
        tree.write(&format!("/boot/loader/entries/{name}"), lines.join("\n") + "\n")?;
    }
    Ok(())
}

/// LoaderInfo is UTF-16 after four attribute bytes.
fn by_systemd_boot(tree: &Tree) -> bool {
    let path = "/sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
    let bytes = machine::Machine::read(&tree.root, path).is().unwrap_or_default();
    let text: String = bytes.iter().skip(4).step_by(2).map(|byte| char::from(*byte)).collect();
    text.starts_with("systemd-boot")
}

/// The command line that the next boot gets from the loader that is really in use.
pub(crate) fn next_cmdline(tree: &Tree) -> String {
    let now = tree.text("/proc/cmdline");
    if has_esps(tree) && by_systemd_boot(tree) {
        let Some(written) = tree.value(&format!("{SIM_DIR}/esp/cmdline")) else { return now };
        let initrd = now.split_whitespace().find(|word| word.starts_with("initrd="));
        return initrd.map_or(written.clone(), |initrd| format!("{initrd} {written}")) + "\n";
    }
    for line in tree.text("/boot/grub/grub.cfg").lines() {
        let mut words = line.split_whitespace();
        if let (Some("linux"), Some(kernel)) = (words.next(), words.next()) {
            let rest: Vec<&str> = words.collect();
            return format!("BOOT_IMAGE={kernel} {}\n", rest.join(" "));
        }
    }
    for (_, text) in tree.texts("/boot/loader/entries", ".conf").iter().rev() {
        if let Some(options) = text.lines().find_map(|line| line.strip_prefix("options")) {
            return format!("{}\n", options.trim());
        }
    }
    now
}
