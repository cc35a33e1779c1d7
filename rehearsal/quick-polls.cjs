// Loaded into CDK's command line before itself (NODE_OPTIONS): it asks CloudFormation every 5 seconds how far a stack is, which is
// right for AWS, while the emulator is mostly done at once. Only waits of just that length are shortened.
const later = globalThis.setTimeout;
globalThis.setTimeout = Object.assign((call, ms, ...rest) => later(call, ms === 5000 ? 250 : ms, ...rest), later);
