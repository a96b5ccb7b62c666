//! What nearly every match and target is written with.

pub(super) use std::fmt::Write;

pub(super) use super::extension::{Depends, Extension, Place, not};
pub(super) use super::header::Header;
pub(super) use super::index::{Field, Narrowed};
pub(super) use super::list::Style;
pub(super) use super::options::{Around, Given, Opt, flag, opt};
pub(super) use super::state::{Kept, Named};
pub(super) use super::text::Error;
pub(super) use super::view::View;
pub(super) use super::{Family, Refused, Table};

/// Writing to a `String` cannot fail.
macro_rules! put {
    ($out:expr, $($text:tt)*) => { write!($out, $($text)*).expect("memory") };
}
pub(super) use put;
