//! `[nflog]`: where the packets of `NFLOG` rules go.

use std::path::PathBuf;

use toml::de::DeTable;

use super::read::Errors;
use super::{keys, section};

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Nflog {
    pub directory: PathBuf,
    /// MiB of a file, after which the next one begins.
    pub file_mb: u32,
    /// Files of a group, the one that is written to included.
    pub files: u32,
}

pub(super) fn nflog(errors: &mut Errors<'_>, document: &DeTable<'_>) -> Nflog {
    let mut nflog = Nflog { directory: "/var/log/lb".into(), file_mb: 64, files: 8 };
    let Some(table) = section(errors, document, &keys::NFLOG) else { return nflog };
    if let Some(found) = table.string(errors, "directory") {
        if !found.value.starts_with('/') || found.value.contains('\0') {
            let text = format!("\"{}\" is no absolute path of a directory", found.value);
            table.error(errors, &found.at, "directory", text);
        }
        nflog.directory = found.value.into();
    }
    if let Some(number) = table.integer(errors, "file_mb", 1..=1_048_576) {
        nflog.file_mb = number;
    }
    if let Some(number) = table.integer(errors, "files", 1..=1000) {
        nflog.files = number;
    }
    nflog
}
