//! Links by `--link TARGET::LINK`.

use crate::root::{Root, RootError, split};
use crate::{Error, Link, Report};

/// Makes each link whose target is there. The text is data: where it leads out of the container, it leads there only for
/// the container's own eyes, and what we look for is looked for inside the root.
pub fn make(root: &Root, links: &[Link], report: &mut Report) -> Result<(), Error> {
    let mut waiting: Vec<&Link> = links.iter().collect();
    // a link may be another's target, and come after it
    loop {
        let before = waiting.len();
        let mut absent = Vec::new();
        for link in waiting {
            if !one(root, link, report)? {
                absent.push(link);
            }
        }
        if absent.is_empty() || absent.len() == before {
            return Ok(());
        }
        waiting = absent;
    }
}

/// False: its target is not there.
fn one(root: &Root, Link { target, link, dangling }: &Link, report: &mut Report) -> Result<bool, RootError> {
    let Some((parent, name)) = split(link).filter(|_| !target.is_empty()) else {
        report.warnings.push(format!("{target}::{link} can be no link; it was not made"));
        return Ok(true);
    };
    let aim = if target.starts_with('/') { target.clone() } else { format!("{parent}/{target}") };
    if aim == *link {
        return Ok(true);
    }
    if !*dangling && !root.is_there(&aim)? {
        return Ok(false);
    }
    match root
        .make_dir(if parent.is_empty() { "/" } else { parent }, true)
        .and_then(|dir| root.link(&dir, name, target))
    {
        Ok(true) => report.changed.push(link.clone()),
        Ok(false) => {}
        Err(error) if error.left_alone() => report.warnings.push(format!("{error}; it is left as it is")),
        Err(error) => return Err(error),
    }
    Ok(true)
}
