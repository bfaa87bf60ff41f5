//! How a path is followed, once for the recorder and for the memory that it fills, so that both come to the same end.

use model::{Reason, Seen};

/// How many links one path may pass, as the kernel has it (MAXSYMLINKS).
pub(crate) const LINKS: usize = 40;

/// What stands at a name.
pub(crate) enum Step {
    Dir,
    Link(String),
    /// Something that has nothing below it.
    Leaf,
    /// Not there, or not to be looked at.
    Gone(Seen<()>),
    /// Nobody looked.
    Unknown,
}

/// Where a path leads.
pub(crate) struct End {
    /// The path with its links resolved, as far as that went, and the rest as it was written.
    pub path: String,
    /// Where the way ends early, and why: the name that is not there, or not to be passed.
    pub stop: Option<(String, Seen<()>)>,
}

/// Follows `path` inside the root; `look` says what stands at a name whose parents are resolved.
pub(crate) fn walk(path: &str, follow_last: bool, look: &mut dyn FnMut(&str) -> Step) -> End {
    if path.len() >= 4096 || !recordable(path) {
        // What the kernel answers with ENAMETOOLONG or EINVAL was never there.
        return End { path: path.to_owned(), stop: Some((path.to_owned(), Seen::Absent)) };
    }
    let mut todo: Vec<String> = Vec::new();
    push(&mut todo, path);
    let mut done = String::new();
    let mut links = 0;
    while let Some(part) = todo.pop() {
        match part.as_str() {
            "." => continue,
            ".." => {
                done.truncate(done.rfind('/').unwrap_or(0));
                continue;
            }
            _ => {}
        }
        let here = format!("{done}/{part}");
        if part.len() > 255 && !part.contains('\u{fffd}') {
            return stop(here, todo, Seen::Absent);
        }
        let last = todo.is_empty();
        match look(&here) {
            Step::Link(target) if follow_last || !last => {
                links += 1;
                if links > LINKS {
                    return stop(here, todo, Seen::Unreadable(Reason::BadLink));
                }
                if target.starts_with('/') {
                    done.clear();
                }
                push(&mut todo, &target);
            }
            Step::Leaf if !last => return stop(here, todo, Seen::Absent),
            Step::Gone(why) => return stop(here, todo, why),
            _ => done = here,
        }
    }
    End { path: if done.is_empty() { "/".into() } else { done }, stop: None }
}

/// A path that a capture can hold: bounded, and without the NUL that no file name has.
pub(crate) fn recordable(path: &str) -> bool {
    path.len() <= crate::capture::PATH_LIMIT && !path.contains('\0')
}

fn stop(here: String, todo: Vec<String>, why: Seen<()>) -> End {
    let mut path = here.clone();
    for part in todo.into_iter().rev().filter(|part| part != ".") {
        path.push('/');
        path.push_str(&part);
    }
    End { path, stop: Some((here, why)) }
}

/// A closing slash asks for a directory: it is kept as a last part ".".
fn push(todo: &mut Vec<String>, path: &str) {
    if path.ends_with('/') && path.len() > 1 {
        todo.push(".".into());
    }
    let parts = path.split('/').filter(|part| !part.is_empty()).rev();
    todo.extend(parts.map(str::to_owned));
}
