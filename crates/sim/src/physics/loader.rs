//! Boot loaders: what their generators write, and what command line the next boot gets.

use std::collections::BTreeMap;

use machine::SIM_DIR;
use model::ArgsTool;

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
    let cfg = if tree.has("/boot/grub/grub.cfg") { "/boot/grub/grub.cfg" } else { "/boot/grub2/grub.cfg" };
    for line in tree.text(cfg).split_inclusive('\n') {
        let mut words = line.split_whitespace();
        let (Some("linux"), Some(kernel)) = (words.next(), words.next()) else {
            text.push_str(line);
            continue;
        };
        let mut rest: Vec<&str> = words.collect();
        // What 10_linux puts in front by itself: root=, and on most ro.
        let front = rest.iter().position(|word| *word == "ro" || *word == "rw");
        let fixed = match front.or_else(|| rest.iter().position(|word| word.starts_with("root="))) {
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
    tree.write(cfg, text)
}

/// True where proxmox-boot-tool keeps the kernels on its own ESPs.
pub(crate) fn has_esps(tree: &Tree) -> bool {
    !tree.text("/etc/kernel/proxmox-boot-uuids").trim().is_empty()
}

/// True where the firmware or systemd-boot starts a unified kernel image.
pub(crate) fn has_image(tree: &Tree) -> bool {
    !has_esps(tree) && tree.has("/sys/firmware/efi/efivars/StubInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f")
}

/// `proxmox-boot-tool refresh`, and the build of a unified image: the ESPs get the command line as it is written now.
pub(crate) fn refresh(tree: &Tree) -> Result<(), super::PhysicsError> {
    if has_image(tree) {
        return tree.write(&format!("{SIM_DIR}/esp/cmdline"), image_cmdline(tree));
    }
    if by_systemd_boot(tree) {
        tree.write(&format!("{SIM_DIR}/esp/cmdline"), tree.text("/etc/kernel/cmdline").trim())
    } else {
        update_grub(tree)
    }
}

/// mkinitcpio joins the pieces of /etc/cmdline.d without their comments; else there is the one file.
fn image_cmdline(tree: &Tree) -> String {
    let pieces = tree.texts("/etc/cmdline.d", ".conf");
    if pieces.is_empty() || !tree.has("/etc/mkinitcpio.conf") {
        return tree.text("/etc/kernel/cmdline").trim().to_owned();
    }
    let lines = pieces.iter().flat_map(|(_, text)| text.lines()).filter(|line| !line.starts_with('#'));
    lines.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ")
}

/// A box's ESPs have the command line that it runs with.
pub(crate) fn first_refresh(tree: &Tree) -> Result<(), super::PhysicsError> {
    if !has_image(tree) && (!has_esps(tree) || !by_systemd_boot(tree)) {
        return Ok(());
    }
    let now = tree.text("/proc/cmdline");
    let words: Vec<&str> = now.split_whitespace().filter(|word| !word.starts_with("initrd=")).collect();
    tree.write(&format!("{SIM_DIR}/esp/cmdline"), words.join(" "))
}

/// The words of a line without some and with others at its end.
fn changed<'w>(line: &'w str, add: &'w [String], remove: &[String]) -> Vec<&'w str> {
    let mut words: Vec<&str> = line.split_whitespace().filter(|word| !remove.iter().any(|gone| gone == word)).collect();
    for word in add {
        if !words.contains(&word.as_str()) {
            words.push(word);
        }
    }
    words
}

/// What grubby, kernelstub and rpm-ostree do to their files.
pub(crate) fn kernel_args(
    tree: &Tree,
    by: ArgsTool,
    add: &[String],
    remove: &[String],
) -> Result<(), super::PhysicsError> {
    let dir = if tree.has("/boot/efi/loader/entries") { "/boot/efi/loader/entries" } else { "/boot/loader/entries" };
    for (name, text) in tree.texts(dir, ".conf") {
        let line = |line: &str| match line.strip_prefix("options ") {
            Some(options) => format!("options {}\n", changed(options, add, remove).join(" ")),
            None => line.to_owned(),
        };
        let text: String = text.split_inclusive('\n').map(line).collect();
        tree.write(&format!("{dir}/{name}"), text)?;
    }
    if by == ArgsTool::Grubby {
        // With ALL it keeps the defaults for kernels to come in step.
        let text = tree.text("/etc/default/grub");
        let line = |line: &str| match line.trim_end().strip_prefix("GRUB_CMDLINE_LINUX=\"") {
            Some(value) => {
                let words = changed(value.trim_end_matches('"'), add, remove).join(" ");
                format!("GRUB_CMDLINE_LINUX=\"{words}\"\n")
            }
            None => line.to_owned(),
        };
        let text: String = text.split_inclusive('\n').map(line).collect();
        tree.write("/etc/default/grub", text)?;
        if tree.has("/etc/kernel/cmdline") {
            let words = tree.text("/etc/kernel/cmdline");
            tree.write("/etc/kernel/cmdline", changed(&words, add, remove).join(" ") + "\n")?;
        }
    }
    const KERNELSTUB: &str = "/etc/kernelstub/configuration";
    if by == ArgsTool::Kernelstub
        && let Ok(mut value) = serde_json::from_str::<serde_json::Value>(&tree.text(KERNELSTUB))
    {
        if let Some(list) = value.pointer_mut("/user/kernel_options") {
            let line: Vec<String> =
                list.as_array().into_iter().flatten().map(|w| w.as_str().unwrap_or("").to_owned()).collect();
            let line = line.join(" ");
            *list = changed(&line, add, remove).into();
        }
        tree.write(KERNELSTUB, serde_json::to_string_pretty(&value).unwrap_or_default())?;
    }
    Ok(())
}

/// `kernel-install add-all`: entries get the command line of /etc/kernel/cmdline.
pub(crate) fn kernel_install(tree: &Tree) -> Result<(), super::PhysicsError> {
    if has_image(tree) {
        return refresh(tree);
    }
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
    if has_image(tree) || has_esps(tree) && by_systemd_boot(tree) {
        let Some(written) = tree.value(&format!("{SIM_DIR}/esp/cmdline")) else { return now };
        let initrd = now.split_whitespace().find(|word| word.starts_with("initrd="));
        return initrd.map_or(written.clone(), |initrd| format!("{initrd} {written}")) + "\n";
    }
    let loaders = ["/boot/grub/grub.cfg", "/boot/grub2/grub.cfg"].map(|cfg| tree.text(cfg));
    for line in loaders.iter().filter(|_| !by_systemd_boot(tree)).flat_map(|text| text.lines()) {
        let mut words = line.split_whitespace();
        if let (Some("linux"), Some(kernel)) = (words.next(), words.next()) {
            let rest: Vec<&str> = words.collect();
            return format!("BOOT_IMAGE={kernel} {}\n", rest.join(" "));
        }
    }
    // A menu shows the highest version first, and a rescue entry last. What the loader itself put in front stays.
    let mark =
        now.split_whitespace().next().filter(|word| word.starts_with("BOOT_IMAGE=") || word.starts_with("initrd="));
    let mark = mark.map_or(String::new(), |mark| format!("{mark} "));
    for dir in ["/boot/loader/entries", "/efi/loader/entries", "/boot/efi/loader/entries"] {
        let entries = tree.texts(dir, ".conf");
        let rescue = |name: &str| name.contains("rescue") || name.contains("fallback");
        let (last, first): (Vec<_>, Vec<_>) = entries.iter().rev().partition(|(name, _)| rescue(name));
        for (_, text) in first.into_iter().chain(last) {
            if let Some(options) = text.lines().find_map(|line| line.strip_prefix("options")) {
                return format!("{mark}{}\n", options.trim());
            }
        }
    }
    now
}
