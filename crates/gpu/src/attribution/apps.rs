//! Apps by the names that people give them: `data/apps.txt`.

use std::sync::OnceLock;

use super::OwnedBy;

const TABLE: &str = include_str!("../../data/apps.txt");

struct App {
    name: &'static str,
    words: Vec<&'static str>,
    programs: Vec<&'static str>,
}

fn table() -> &'static [App] {
    static APPS: OnceLock<Vec<App>> = OnceLock::new();
    APPS.get_or_init(|| {
        let list = |text: &'static str| text.split(',').map(str::trim).filter(|word| !word.is_empty()).collect();
        let rows = TABLE.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
        let row = |line: &'static str| {
            let mut parts = line.split('|');
            let (name, words, programs) = (parts.next()?.trim(), parts.next()?, parts.next()?);
            Some(App { name, words: list(words), programs: list(programs) })
        };
        rows.filter_map(row).collect()
    })
}

/// By what a person chose first: the image, then names, then the program itself.
pub(super) fn of(owner: &OwnedBy, arguments: &[String], command: &str) -> Option<String> {
    let texts: Vec<&str> = match owner {
        OwnedBy::Container { name, image, .. } => image.iter().chain(name).map(String::as_str).collect(),
        OwnedBy::Pod { pod, container, .. } => container.iter().chain(pod).map(String::as_str).collect(),
        OwnedBy::Unit { unit, .. } => vec![unit.as_str()],
        OwnedBy::System { name, title } => title.iter().map(String::as_str).chain([name.as_str()]).collect(),
        OwnedBy::Vm { name, .. } => name.iter().map(String::as_str).collect(),
        OwnedBy::Process | OwnedBy::Hidden => Vec::new(),
    };
    let path = arguments.first().map_or("", String::as_str);
    let by_program = || {
        let is = |program: &&str| if program.contains('/') { path.starts_with(*program) } else { *program == command };
        table().iter().find(|app| app.programs.iter().any(is))
    };
    // A system container or a VM may hold many: what runs says more than its name.
    let many = matches!(owner, OwnedBy::System { .. });
    let by_name =
        || texts.iter().find_map(|text| table().iter().find(|app| app.words.iter().any(|word| has(text, word))));
    let found = if many { by_program().or_else(by_name) } else { by_name().or_else(by_program) };
    found.map(|app| app.name.to_owned())
}

/// A whole word of an image's path or a name: "ghcr.io/jellyfin/jellyfin:10.11", "linuxserver-plex-1".
fn has(text: &str, word: &str) -> bool {
    let text = text.to_ascii_lowercase();
    let edge = |c: Option<char>| c.is_none_or(|c| !c.is_ascii_alphanumeric());
    text.match_indices(word).any(|(at, _)| {
        let (before, after) = (text.get(..at).unwrap_or_default(), text.get(at + word.len()..).unwrap_or_default());
        edge(before.chars().next_back()) && edge(after.chars().next())
    })
}

#[cfg(test)]
mod tests {
    use super::super::Engine;
    use super::*;

    fn image(image: &str) -> OwnedBy {
        let (id, name) = ("ab".repeat(32), None);
        OwnedBy::Container { engine: Engine::Docker, id, name, image: Some(image.into()), user: None }
    }

    #[test]
    fn an_app_is_known_by_image_name_unit_or_program() {
        let by = |owner: &OwnedBy, path: &str| {
            let command = path.rsplit('/').next().unwrap_or_default();
            of(owner, &[path.to_owned()], command)
        };
        for (name, app) in [
            ("jellyfin/jellyfin:10.11.11", Some("jellyfin")),
            ("lscr.io/linuxserver/plex", Some("plex")),
            ("ghcr.io/immich-app/immich-machine-learning:release-cuda", Some("immich")),
            ("ghcr.io/ggml-org/llama.cpp:server-cuda", Some("llama.cpp")),
            ("example.test/complex:1", None),
            ("docker.io/library/alpine", None),
        ] {
            assert_eq!(by(&image(name), "/bin/x").as_deref(), app, "{name}");
        }
        let unit = OwnedBy::Unit { unit: "ollama.service".into(), user: None };
        assert_eq!(by(&unit, "/bin/x").as_deref(), Some("ollama"));
        assert_eq!(by(&OwnedBy::Process, "/usr/lib/jellyfin-ffmpeg/ffmpeg").as_deref(), Some("jellyfin"));
        assert_eq!(by(&OwnedBy::Process, "/usr/bin/ffmpeg"), None);
        // many apps in one: the program says more than its name
        let system = OwnedBy::System { name: "105".into(), title: Some("plex".into()) };
        assert_eq!(by(&system, "/usr/local/bin/ollama").as_deref(), Some("ollama"));
        assert_eq!(by(&system, "/usr/bin/ffmpeg").as_deref(), Some("plex"));
    }

    #[test]
    fn every_row_of_the_table_is_whole_and_no_word_stands_twice() {
        let rows = TABLE.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()).count();
        assert_eq!(table().len(), rows);
        let mut words: Vec<&str> = table().iter().flat_map(|app| &app.words).copied().collect();
        let all = words.len();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), all);
        assert!(words.iter().all(|word| *word == word.to_ascii_lowercase()));
        assert!(table().iter().all(|app| !app.words.is_empty()));
    }
}
