//! Where in a body we are, for error texts: `bundle.commits[3].metadata.section`.
//!
//! Invariants: lives on the stack while decoding; costs nothing until an error is printed; a name from the input is cut
//! at 80 characters and control characters are escaped.

use std::fmt;

/// One step of the path, linked to the step before.
#[derive(Clone, Copy)]
pub struct Field<'a> {
    parent: Option<&'a Field<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root(&'a str),
    Key(&'a str),
    Index(usize),
}

impl<'a> Field<'a> {
    /// The start of a path.
    pub fn root(name: &'a str) -> Field<'a> {
        Field { parent: None, step: Step::Root(name) }
    }

    /// A key of this map.
    pub fn key<'b>(&'b self, name: &'b str) -> Field<'b> {
        Field { parent: Some(self), step: Step::Key(name) }
    }

    /// An element of this array.
    pub fn index<'b>(&'b self, index: usize) -> Field<'b> {
        Field { parent: Some(self), step: Step::Index(index) }
    }
}

impl fmt::Display for Field<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            fmt::Display::fmt(parent, out)?;
        }
        match self.step {
            Step::Root(name) => out.write_str(name),
            Step::Key(name) => write!(out, ".{}", shown(name)),
            Step::Index(index) => write!(out, "[{index}]"),
        }
    }
}

/// A name from the input as an error text may show it.
fn shown(name: &str) -> String {
    name.chars().take(80).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_prints_its_whole_path_and_escapes_what_the_client_chose() {
        let root = Field::root("bundle");
        let commits = root.key("commits");
        let third = commits.index(3);
        assert_eq!(third.key("a\nb").to_string(), "bundle.commits[3].a\\nb");
    }
}
