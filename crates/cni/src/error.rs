//! What a CNI plugin says on stdout when it fails (CNI spec 1.1.0, "Error").

use serde_json::{Value, json};

/// The spec's codes, and flannel's for everything of its own.
pub const VERSION: u64 = 1;
pub const ENVIRONMENT: u64 = 4;
pub const IO: u64 = 5;
pub const DECODING: u64 = 6;
pub const CONFIG: u64 = 7;
pub const SAME_NETNS: u64 = 8;
pub const TRY_AGAIN: u64 = 11;
pub const UNAVAILABLE: u64 = 50;
pub const OTHER: u64 = 999;

#[derive(Debug, Clone, PartialEq)]
pub struct Error {
    pub code: u64,
    pub msg: String,
    pub details: String,
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn new(code: u64, msg: impl Into<String>) -> Self {
        Error { code, msg: msg.into(), details: String::new() }
    }

    pub fn with_details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// As printed. Without `cniVersion`, as flannel's plugin does it.
    pub fn json(&self) -> Value {
        let mut found = json!({"code": self.code, "msg": self.msg});
        if !self.details.is_empty() {
            found["details"] = self.details.clone().into();
        }
        found
    }
}
