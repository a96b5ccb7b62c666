//! What the unit of systemd keeps `lbd` from writing: everything but a few directories (`ProtectSystem=strict`,
//! `ProtectHome=yes`, and no CAP_DAC_OVERRIDE for root; systemd.exec(5)). Where the operator names another place, the error says what helps.

use std::io;

/// The end of a line about a file that cannot be written: empty where a unit has nothing to do with it.
pub(crate) fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
            "; under systemd the unit says where lbd may write: ReadWritePaths= in a drop-in (docs/operation.md)"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_may_not_be_written_has_a_hint_and_a_full_one_none() {
        let of = |code| hint(&io::Error::from_raw_os_error(code));
        let [permission, read_only, full] = [13, 30, 28].map(of);
        assert!(read_only.contains("ReadWritePaths="));
        assert_eq!((permission, full), (read_only, ""));
    }
}
