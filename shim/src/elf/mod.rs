//! A symbol walker: finds a loaded object by its DT_SONAME and a symbol in *that* object, without `dlsym`.
//!
//! `dlvsym` with guessed versions would be the usual way to the real `dlsym`, but the versions differ between glibc
//! releases and architectures, and the call itself can be interposed.

pub(crate) mod hash;
pub(crate) mod image;
pub(crate) mod link_map;

pub(crate) use image::Image;
pub(crate) use link_map::LinkMap;
