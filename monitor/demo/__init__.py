"""The guided tour: a real classifier, a real sidecar, real data, nothing fetched."""
