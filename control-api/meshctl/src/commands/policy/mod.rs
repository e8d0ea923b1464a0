//! `meshctl policy`: test, lint, diff, shadow.

mod changes;
mod diff;
mod junit;
mod lint;
mod shadow;
mod test;

pub(super) use diff::run as diff;
pub(super) use lint::{files as lint_files, live as lint_live};
pub(super) use shadow::run as shadow;
pub(super) use test::run as test;
