//! How a listing (`-L`) shows things.

use std::fmt::Write;

use super::Family;
use super::names::Names;

/// As `-n` and the family say.
#[derive(Clone, Copy)]
pub struct Style<'a> {
    pub family: Family,
    pub is_numeric: bool,
    pub names: &'a dyn Names,
}

impl Style<'_> {
    /// A port, by name where names are wanted.
    pub(crate) fn port(&self, port: u16, protocol: &str) -> String {
        let name = if self.is_numeric { None } else { self.names.service_name(port, protocol) };
        name.unwrap_or_else(|| port.to_string())
    }
}

/// A count in at most `width` digits: thousands, millions and so on beyond it.
pub fn count(out: &mut String, value: u64, is_exact: bool) {
    const THOUSAND: u64 = 1000;
    if is_exact {
        write!(out, "{value:>8} ").expect("memory");
        return;
    }
    if value <= 99_999 {
        write!(out, "{value:>5} ").expect("memory");
        return;
    }
    let mut scaled = value;
    for unit in ["K", "M", "G"] {
        scaled = scaled.saturating_add(THOUSAND / 2) / THOUSAND;
        if scaled <= 9999 {
            write!(out, "{scaled:>4}{unit} ").expect("memory");
            return;
        }
    }
    write!(out, "{:>4}T ", scaled.saturating_add(THOUSAND / 2) / THOUSAND).expect("memory");
}

#[cfg(test)]
mod tests {
    #[test]
    fn counts_fit_their_column() {
        let count = |value| {
            let mut out = String::new();
            super::count(&mut out, value, false);
            out
        };
        assert_eq!(count(99_999), "99999 ");
        assert_eq!(count(123_456_789), " 123M ");
        assert_eq!(count(98_765_432_100), "  99G ");
        assert_eq!(count(u64::MAX).len(), "18446744T ".len());
    }
}
