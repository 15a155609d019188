//! OpenNebula's XML-RPC API and its documents, as far as onemirror needs them.
