//! What went wrong, with the kernel's error number where there is one.

use std::error::Error as StdError;
use std::fmt;
use std::io;

/// What, where, and the way out.
#[derive(Debug)]
pub struct Error {
    text: String,
    errno: Option<i32>,
    invalid: bool,
}

/// Of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The caller's fault: a value that can't be.
    pub fn invalid(text: impl Into<String>) -> Error {
        Error { text: text.into(), errno: None, invalid: true }
    }

    /// The kernel's refusal: what was tried, and why it failed.
    pub fn of(what: impl fmt::Display, error: &(dyn StdError + 'static)) -> Error {
        let mut text = format!("{what}: {error}");
        let mut errno = None;
        let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
        while let Some(here) = cause {
            if let Some(io) = here.downcast_ref::<io::Error>() {
                errno = errno.or_else(|| io.raw_os_error());
            }
            let also = here.to_string();
            if !text.contains(&also) {
                text = format!("{text}: {also}");
            }
            cause = here.source();
        }
        Error { text, errno, invalid: false }
    }

    /// With what can be done about it.
    #[must_use]
    pub fn way_out(mut self, text: &str) -> Error {
        self.text = format!("{}; {text}", self.text);
        self
    }

    /// The kernel's number, if it was the kernel that refused.
    pub fn errno(&self) -> Option<i32> {
        self.errno
    }

    /// Was it the caller's fault?
    pub fn is_invalid(&self) -> bool {
        self.invalid
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl StdError for Error {}
