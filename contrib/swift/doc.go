// Package swift holds what grants others access to a container that keeps a
// repository, and the test that it grants what is needed, and no more.
package swift
