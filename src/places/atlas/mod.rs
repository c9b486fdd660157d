//! The offline gazetteer.
