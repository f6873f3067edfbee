//! How the bytes of a layer lie on remotes: compressed chunks in blobs, many of which are shared.
//!
//! A *pack* is the list that says so for one state. It is not believed: the index that it leads to
//! must be the one that the state's id was made of, and each block the one that the index's hash
//! says. So a pack decides only how many bytes travel, and may be made anew at any time.
