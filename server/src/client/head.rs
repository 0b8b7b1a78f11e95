//! `.muse/HEAD`: which branch is checked out.

use reprise_engine::{id::ObjectId, object::names};

/// What `HEAD` says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Head {
    /// This branch, which may have no commit yet.
    Branch(String),
    /// A commit without a branch.
    Detached(ObjectId),
}

impl Head {
    /// Reads the file's text. `None` if it is nothing that the client writes.
    pub fn parse(text: &str) -> Option<Head> {
        let text = text.strip_suffix('\n').unwrap_or(text);
        // Older clients left `ref: ` out.
        if let Some(branch) = text.strip_prefix("ref: ").unwrap_or(text).strip_prefix("refs/heads/") {
            return names::check_ref(branch).is_ok().then(|| Head::Branch(branch.to_owned()));
        }
        text.strip_prefix("commit: ").unwrap_or(text).parse().ok().map(Head::Detached)
    }

    /// The file's text for a branch.
    pub fn text_of_branch(branch: &str) -> String {
        format!("ref: refs/heads/{branch}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back_and_a_changed_byte_does_not_pass_for_it() {
        let text = Head::text_of_branch("feature/x");
        assert_eq!(Head::parse(&text), Some(Head::Branch("feature/x".to_owned())));
        assert_eq!(Head::parse("refs/heads/main"), Some(Head::Branch("main".to_owned())));
        for text in
            ["", "main", "ref: refs/heads/", "ref: refs/heads/../x", "rEf: refs/heads/main\n", "ref: refs/heads/a\n\n"]
        {
            assert_eq!(Head::parse(text), None, "{text:?}");
        }
        let id = ObjectId([7; 32]);
        assert_eq!(Head::parse(&format!("{id}\n")), Some(Head::Detached(id)));
    }
}
