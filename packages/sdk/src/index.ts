export { ApiError, type ApiErrorFacts } from './api-error.js';
export { type CallOptions, type CallResult, type Client, type ClientOptions, createClient } from './client.js';
