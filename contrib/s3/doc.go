// Package s3 holds policies for buckets that keep repositories, and the test
// that they allow what is needed, and no more.
package s3
