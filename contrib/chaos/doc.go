// Package chaos holds a test that kills, stops, cuts off and restarts instances and
// servers while backups run by schedule and by request, and then looks whether
// anything was lost, done twice or left hanging.
package chaos
